"""What the ranks of each attempt wrote: attempts/<n>/rank_<r>.json, failure.json and saved.json in a run's folder.

Takes the run's folder; returns records. A damaged file counts as missing. No torch.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NotRequired

from typing_extensions import TypedDict

from hpctrain.errors import Damaged
from hpctrain.storage.json_files import Count, Number, ProcessId, load, read_small

RUNNING = "running"  # the outcome of a rank that has not ended


class RankFile(TypedDict):
    """rank_<r>.json: where a rank runs, and how it ended: `outcome` is RUNNING or a reason (storage/run_state.py)."""

    rank: Count
    outcome: str
    host: NotRequired[str]
    pid: NotRequired[ProcessId]
    boot: NotRequired[str]
    started: NotRequired[str]
    time: NotRequired[Number]
    detail: NotRequired[str]


class Failure(TypedDict):
    """failure.json: why an attempt failed, in the words of the rank that failed first."""

    rank: Count | None
    reason: str
    detail: str
    host: NotRequired[str]


def numbers(run: Path) -> list[int]:
    """Returns the numbers of all attempts, the oldest first."""
    try:
        return sorted(int(p.name) for p in (run / "attempts").iterdir() if p.name.isdecimal())
    except OSError:
        return []


def token(run: Path, number: int) -> str | None:
    """Returns the token of an attempt's start; None if the file is missing."""
    with contextlib.suppress(OSError):
        return read_small(_folder(run, number) / "token")[0].decode(errors="replace")
    return None


def failure(run: Path, number: int) -> Failure | None:
    """Returns why an attempt failed; None if no rank has said so."""
    with contextlib.suppress(Damaged):
        return load(_folder(run, number) / "failure.json", Failure)
    return None


def saved(run: Path, number: int) -> int | None:
    """Returns the first step that an attempt noted as saved; None if it noted none."""
    with contextlib.suppress(Damaged):
        return load(_folder(run, number) / "saved.json", int)
    return None


def ranks(run: Path, number: int, own: bool = False) -> list[RankFile]:
    """Returns what each rank of an attempt wrote about itself, in order of rank.

    `own` leaves out files that others could have written, because the processes named there get signals.
    """
    files = []
    for path in _folder(run, number).glob("rank_*.json"):
        with contextlib.suppress(Damaged):
            if who := load(path, RankFile, own):
                files.append(who)
    return sorted(files, key=lambda who: who["rank"])


def _folder(run: Path, number: int) -> Path:
    return run / "attempts" / str(number)
