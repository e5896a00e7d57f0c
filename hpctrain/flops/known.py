"""Counts that need no torch, because they are shipped with hpctrain or in the user's cache.

Takes a network's name, settings and batch, returns its `Count`. Reads known.json.gz beside this file (every
network at its default settings, and the scenarios), then the user's cache. If neither has the count, torch counts
on the meta device and the cache is written. `python -m hpctrain.flops.known` writes known.json.gz anew.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import os
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hpctrain.flops.result import Count, from_plain, to_plain
from hpctrain.models.settings import NETWORKS
from hpctrain.storage.json_files import read_json, replace_text

SHIPPED = Path(__file__).with_name("known.json.gz")
SHORT = (4, 8, 12)  # multiples of every stride over time; three lengths determine all others (runs.py)


def counted(name: str, settings: Any, batch: int, *, training: bool = True) -> Count:
    """Returns the count of one step of one of hpctrain's networks. Raises UserError and RunFailed, as `count` does."""
    key = _key(name, settings, batch, training)
    if key in _shipped():
        return from_plain(_shipped()[key])
    path = _cache_dir() / f"{hashlib.sha256((_made_by() + key).encode()).hexdigest()[:32]}.json"
    known = read_json(path)
    if known is not None:
        return from_plain(known)
    count = fresh(name, settings, batch, training=training)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps(to_plain(count)))
    except OSError:  # the home folder is full or read-only, but the count is good
        pass
    return count


def fresh(name: str, settings: Any, batch: int, *, training: bool = True) -> Count:
    """Returns a new count, made with torch in both ways. Raises UserError and RunFailed, as `count` does."""
    from hpctrain import models
    from hpctrain.flops.count import count

    network = models.build(name, settings, device="meta")
    loss = pkgutil.resolve_name(NETWORKS[name].loss) if training else None
    return count(network, models.example_inputs(name, settings, batch), loss=loss, training=training)


def _key(name: str, settings: Any, batch: int, training: bool) -> str:
    return json.dumps([name, dataclasses.asdict(settings), batch, training], sort_keys=True)


@cache
def _shipped() -> Mapping[str, Any]:
    counts: dict[str, Any] = json.loads(gzip.decompress(SHIPPED.read_bytes())) if SHIPPED.exists() else {}
    return counts


def _cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "hpctrain" / "flops"


@cache
def _made_by() -> str:
    """Returns a text that changes with the rules and the networks, so that counts of older code are not used."""
    package = Path(__file__).parents[1]
    files = sorted(path for part in ("flops", "models") for path in (package / part).glob("*.py"))
    return json.dumps([(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files])


def shipped() -> dict[str, dict[str, Any]]:
    """Returns the counts to ship: every network at its default settings, and the scenarios of conf/scenario."""
    from hpctrain.config.conf_files import groups
    from hpctrain.flops.request import request

    cases = [(name, network.settings(), network.unit.batch) for name, network in NETWORKS.items()]
    for scenario in groups()["scenario"]:
        asked = request([f"scenario={scenario}"])
        model = asked.model
        sequences = hasattr(model.settings, "example_length")
        lengths = [{"example_length": n} for n in SHORT] if sequences else [{}]
        cases += [
            (model.name, dataclasses.replace(model.settings, **length), asked.batch) for length in lengths
        ]
    return {_key(*case, True): to_plain(fresh(*case)) for case in cases}


if __name__ == "__main__":
    SHIPPED.write_bytes(gzip.compress(json.dumps(shipped(), separators=(",", ":")).encode(), mtime=0))
