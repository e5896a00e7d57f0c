"""A Hugging Face data set: `data.source` is its name (or a local folder), `data.subset` its variant.

Takes a DataConfig; returns its rows, or a Source that streams their text, one row per line. Needs the extra `datasets`;
its library is imported when rows are read, so not if the tokens are in the cache. Downloads go to its cache.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from hpctrain.config.settings import DataConfig
from hpctrain.errors import UserError

HUB_S = 3.0  # after which the hub is taken for unreachable, as it is from most compute nodes


def load_rows(config: DataConfig) -> Any:
    """Returns its splits by name, `train` among them. Raises UserError."""
    if config.source is None:
        raise UserError("data.source", "null", "give the name of a set of the hub, or a folder")
    why = "" if Path(config.source).is_dir() else _offline()
    try:
        import datasets
    except ImportError:
        raise UserError(
            "data.name", config.name, "needs an extra: pip install 'hpctrain[datasets]'"
        ) from None
    datasets.disable_progress_bars()
    for name in ("datasets", "huggingface_hub"):  # what goes wrong is said once, by us
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        rows = datasets.load_dataset(
            config.source, config.subset, download_config=datasets.DownloadConfig(max_retries=0)
        )
    except Exception as error:  # the library raises many kinds: no such set, no network, no such variant
        reason = " ".join(str(error).split())[:200]
        if why:
            reason = f"{why}, and it is not in the cache of an earlier run ({reason})"
        raise UserError("data.source", config.source, f"cannot be loaded: {reason}") from None
    if "train" not in rows:
        raise UserError("data.source", config.source, f"has no split `train`, only {', '.join(rows)}")
    return rows


_found_silent = False  # by us: the library is told by the environment


def _offline() -> str:
    """Returns why only the cache is looked at, or ""."""
    global _found_silent
    if not _found_silent:
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
            return "HF_HUB_OFFLINE is set"
        if _hub_answers():
            return ""
        _found_silent = True
        os.environ["HF_HUB_OFFLINE"] = "1"  # the cache at once, in place of half a minute of trying
    return "the hub cannot be reached"


def _hub_answers() -> bool:
    """Whether the hub, or the mirror that HF_ENDPOINT names, says anything at all."""
    import urllib.error  # no command on a login node needs it
    import urllib.request

    asked = urllib.request.Request(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), method="HEAD")
    try:
        urllib.request.urlopen(asked, timeout=HUB_S).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
    return True
