"""Finds the ranks that the kernel ended because of their memory, in any cgroup.

Takes the rank files of an attempt; returns ranks. Side effect: runs dmesg. Many sites allow that to admins only; then
nothing is known.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterable, Mapping
from typing import Any

_KILL = re.compile(r"^\[ *(\d+\.\d+)\] .*\bout of memory: Killed process (\d+) ", re.M | re.I)
PATIENCE_S = 5


def read() -> str:
    """Returns the kernel's log; "" if it may not be read here."""
    try:
        done = subprocess.run(["dmesg"], capture_output=True, timeout=PATIENCE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace")


def killed_for_memory(
    log: str, ranks: Iterable[Mapping[str, Any]], booted_s: float | None = None
) -> int | None:
    """Returns the first of the ranks that the kernel ended because of its memory, after the rank began; else None.

    `booted_s` is when the machine booted, in seconds since the epoch; None: as this machine's clocks say.
    """
    began_s = time.time() - time.monotonic() if booted_s is None else booted_s
    times = {who.get("pid"): (who.get("time", 0.0), who["rank"]) for who in ranks}
    for since_s, pid in _KILL.findall(log):
        rank_began_s, rank = times.get(int(pid), (None, None))
        if rank_began_s is not None and began_s + float(since_s) >= rank_began_s:
            return int(rank)
    return None
