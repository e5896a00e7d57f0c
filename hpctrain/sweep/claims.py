"""Who does which piece of work: a claim is a file that one job makes and all can see.

claims/<run>.<rung>.<n>.json holds the n-th claim of a piece of work: its owner (storage/lock.py says who that
is and whether it has ended), when it began, and, once it is over, when and how. Claim n + 1 can be made only
once n is over or its owner has ended; link(2) lets one win. The claims together are the study's time sheet.
No torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from hpctrain.errors import Damaged
from hpctrain.scheduler.client import Snapshot
from hpctrain.storage.json_files import Number, load, replace_text
from hpctrain.storage.lock import JobEnded, Owner, has_ended, this_process
from hpctrain.sweep.study_dir import Work, publish

JUDGED = frozenset({"done", "paused", "failed", "cancelled"})  # outcomes that end a piece of work


class ClaimRecord(TypedDict, total=False):
    """The file of a claim; empty if it is missing. The keys from `until` on are there once it is over.

    `seconds` and `job` are those of study_dir.Ended. `damage` is never in the file: it names a file that is damaged,
    and says why; then nothing else is known.
    """

    owner: Owner
    began: Number
    key: str
    until: Number
    outcome: str
    reason: str | None
    seconds: Number
    job: str
    damage: str


@dataclass
class Claim:
    """One piece of work that this process has claimed."""

    work: Work
    path: Path
    number: int
    earlier: list[ClaimRecord] = field(default_factory=list)

    def close(self, outcome: str, **facts: Any) -> None:
        """Records that the work is over, or given back. Raises OSError."""
        _close(self.path, outcome, **facts)

    @property
    def goes_on(self) -> bool:
        """Whether this is work that somebody began and nobody has judged yet."""
        return bool(self.earlier) and self.earlier[-1].get("outcome") not in JUDGED

    def mishaps(self, reasons: Set[str] = frozenset()) -> int:
        """Returns how many of the last claims of this work, in a row, died or stopped for one of `reasons`."""
        count = 0
        for record in reversed(self.earlier):
            outcome = record.get("outcome")
            if outcome in JUDGED or (outcome == "stopped" and record.get("reason") not in reasons):
                break
            count += outcome in (None, "stopped")
        return count


def newest(folder: Path) -> dict[str, int]:
    """Returns the number of each piece of work's newest claim, by key."""
    numbers: dict[str, int] = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            key, _, number = entry.name.removesuffix(".json").rpartition(".")
            if not entry.name.startswith(".") and number.isdigit():
                numbers[key] = max(numbers.get(key, 0), int(number))
    return numbers


def take(folder: Path, work: Work, last: int = 0, job_ended: JobEnded | None = None) -> Claim | None:
    """Claims a piece of work whose newest claim is number `last` (0: none yet); returns None if another has it.

    Raises OSError if the claim cannot be written.
    """
    mine = this_process(last + 1)
    if last and not is_over(read(folder, work.key, last), mine, job_ended):
        return None
    earlier = [read(folder, work.key, n) for n in range(1, last + 1)]
    path = _path(folder, work.key, last + 1)
    record: ClaimRecord = {"owner": mine, "began": time.time(), "key": work.key}
    return Claim(work, path, last + 1, earlier) if publish(path, _text(record).encode()) else None


def is_over(record: ClaimRecord, mine: Owner, job_ended: JobEnded | None = None) -> bool:
    """Returns whether nobody works on this claim any more, as far as this process can know."""
    if record.get("outcome") is not None:
        return True
    return "owner" not in record or bool(has_ended(record["owner"], mine, job_ended))


def lives(record: ClaimRecord, mine: Owner, slurm: Snapshot) -> bool | None:
    """Returns whether somebody works on this claim. Raises Unreachable if Slurm does not answer.

    None if that cannot be known: Slurm does not know the job, or another machine has the process.
    """
    if is_over(record, mine, slurm.has_ended):
        return False
    owner = record["owner"]
    if has_ended(owner, mine, None) is False:
        return True
    return (owner.job_id is not None and slurm.job(owner.job_id) is not None) or None


def unlock(folder: Path, key: str, number: int) -> None:
    """Records that nobody works on a claim any more, because a person says so. Raises OSError."""
    _close(_path(folder, key, number), "unlocked")


def read(folder: Path, key: str, number: int) -> ClaimRecord:
    """Returns the record of a claim; empty if there is no such claim."""
    return _read(_path(folder, key, number))


def _close(path: Path, outcome: str, **facts: Any) -> None:
    before = _read(path)
    before.pop("damage", None)
    replace_text(path, _text({**before, "until": time.time(), "outcome": outcome, **facts}))


def _read(path: Path) -> ClaimRecord:
    try:
        return load(path, ClaimRecord) or {}
    except Damaged as error:
        return {"damage": str(error)}


def _text(record: Mapping[str, Any]) -> str:
    return json.dumps(record, default=asdict)


def _path(folder: Path, key: str, number: int) -> Path:
    return folder / f"{key}.{number}.json"
