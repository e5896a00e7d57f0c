"""What the launcher of a run's ranks wrote (the batch shell and its srun, mpirun or horovodrun), and what ranks wrote
before they had a log of their own.

Takes a run directory; returns paths and text. Reads files only. The lines of a rank begin as horovodrun writes them:
`[1]<stderr>:`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from hpctrain.scheduler.sbatch import START_MARK
from hpctrain.storage.files import open_regular
from hpctrain.storage.json_files import read_small
from hpctrain.storage.run_dir import RunDir

READ_BYTES = 200_000  # from the end of a log: a launcher says little about an end
_RANK_BYTES = 4_000
_MOST_RANKS = 64  # logs of more ranks are not read: they say the same
_OF_RANK = re.compile(r"_(\d+)_log\.(out|err)$")
_RANK_LINE = re.compile(r"\[\d+\]<stderr>:")
_START = re.compile(rf"{re.escape(START_MARK)} (\d+) of job (\d+(?:_\d+)?)")


def newest(run: RunDir) -> tuple[Path, str] | None:
    """Returns the younger log, of the newest job's batch shell or of the launcher, and the text of its last start.

    Returns None if neither exists.
    """
    logs: dict[Path, str | None] = {run.path / "launcher.log": None}
    if job_ids := run.submission.read().job_ids:
        logs[run.submitit / f"{job_ids[-1]}_0_log.out"] = job_ids[-1]
    existing = [log for log in logs if log.is_file()]
    if not existing:
        return None
    log = max(existing, key=lambda log: log.stat().st_mtime)
    return log, text(run, logs[log])


def said_something(said: str) -> bool:
    """Returns whether a start's text holds more than the line that opens it."""
    return any(line.strip() and not line.startswith(START_MARK) for line in said.splitlines())


def text(run: RunDir, job_id: str | None) -> str:
    """Returns what the newest start of a job wrote; `job_id` is None for a launcher on this machine."""
    batch = run.submitit / f"{job_id}_0_log.out"
    said = last_start(tail(batch)) if job_id else ""
    if not _START.match(said):  # no batch shell wrote it: the launcher has a log of its own
        said += last_start(tail(run.path / "launcher.log"))
    if job_id is None or not run.submitit.is_dir():
        return said
    others = [log for log in run.submitit.glob(f"{job_id}_*_log.*") if log != batch and log.stat().st_size]
    for log in sorted(others, key=_rank)[:_MOST_RANKS]:
        mark = f"[{rank}]<stderr>:" if (rank := _rank(log)) else ""
        said += "".join(f"{mark}{line}\n" for line in tail(log, _RANK_BYTES).splitlines())
    return said


def last_start(said: str) -> str:
    """Returns the part of a launcher's log that belongs to its last start."""
    _, mark, part = said.rpartition(START_MARK)
    return mark + part


def of_this_start(said: str) -> str:
    """Returns the lines of a start's text that no earlier start can have written.

    In a job that was started again, the logs of other ranks may be those of an earlier start.
    """
    start = _START.match(said)
    if start is None or start[1] == "0":
        return said
    return "\n".join(line for line in said.splitlines() if not _RANK_LINE.match(line))


def attempt(run: RunDir, said: str, job_id: str | None = None) -> int | None:
    """Returns the attempt of the start that wrote `said`; None if none of its ranks came up.

    `job_id` is used if the text does not name the job.
    """
    start = _START.match(said)
    for number in reversed(run.attempts()):
        token = _token(run, number)
        if start:
            fits = token == f"slurm-{start[2]}.{start[1]}"
        else:  # on this machine, or a step of a study's job
            fits = (
                not token.startswith("slurm-")
                or not (job_id or "").isdigit()
                or token.startswith(f"slurm-{job_id}.")
            )
        if fits:
            return number
    return None


def tail(path: Path, size: int = READ_BYTES) -> str:
    """Returns the last whole lines of a file, at most `size` bytes; "" if it cannot be read."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            length = file.seek(0, 2)
            file.seek(max(0, length - size))
            data = file.read(size)
    except OSError:
        return ""
    whole = data if length <= size else data.partition(b"\n")[2]
    return whole.decode(errors="replace")


def _rank(log: Path) -> int:
    match = _OF_RANK.search(log.name)
    return int(match[1]) if match else 0


def _token(run: RunDir, number: int) -> str:
    try:
        return read_small(run.attempt(number) / "token")[0].decode()
    except (OSError, UnicodeDecodeError):
        return ""
