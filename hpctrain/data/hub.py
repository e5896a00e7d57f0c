"""A Hugging Face data set: `data.source` is its name (or a local folder), `data.subset` its variant.

Takes a DataConfig; returns the set's rows. Needs the extra `datasets`; the library is imported only when rows are
read, so not if the tokens are in the cache. Downloads go to the library's cache.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from hpctrain.config.settings import DataConfig
from hpctrain.errors import UserError

HUB_S = 3.0  # without an answer: the hub counts as unreachable, as it is from most compute nodes


def load_rows(config: DataConfig) -> Any:
    """Returns the set's splits by name, including `train`. Raises UserError."""
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
    for name in ("datasets", "huggingface_hub"):  # errors are reported once, by us
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        rows = datasets.load_dataset(
            config.source, config.subset, download_config=datasets.DownloadConfig(max_retries=0)
        )
    except Exception as error:  # of many kinds: no such set, no network, no such variant
        reason = " ".join(str(error).split())[:200]
        if why:
            reason = f"{why}, and it is not in the cache of an earlier run ({reason})"
        raise UserError("data.source", config.source, f"cannot be loaded: {reason}") from None
    if "train" not in rows:
        raise UserError("data.source", config.source, f"has no split `train`, only {', '.join(rows)}")
    return rows


_found_silent = False  # whether the hub did not answer us; the library learns it from HF_HUB_OFFLINE


def _offline() -> str:
    """Returns why only the cache is used, or "" if the hub answers."""
    global _found_silent
    if not _found_silent:
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
            return "HF_HUB_OFFLINE is set"
        if _hub_answers():
            return ""
        _found_silent = True
        os.environ["HF_HUB_OFFLINE"] = "1"  # uses the cache at once instead of retrying for half a minute
    return "the hub cannot be reached"


def _hub_answers() -> bool:
    """Returns whether the hub, or the mirror that HF_ENDPOINT names, answers at all."""
    import urllib.error  # imported here, because commands on a login node do not need it
    import urllib.request

    asked = urllib.request.Request(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), method="HEAD")
    try:
        urllib.request.urlopen(asked, timeout=HUB_S).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
    return True
