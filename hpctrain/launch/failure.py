"""Why an attempt ended, if no rank was left to say so: from what ranks and launcher left behind.

Takes a run directory and the launcher's output (mpirun's, srun's, horovodrun's); returns a reason of
storage/run_state.py, and writes it. Only once the launcher has ended.
"""

from __future__ import annotations

import re

from hpctrain.scheduler.sbatch import START_MARK
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Reason, RunState

# The first task that ended badly: as mpirun says it, and as srun does ("node2: task 1: Killed").
_ENDED = re.compile(
    r"process rank (?P<rank>\d+) .*exited on signal (?P<number>\d+)"
    r"|srun: error: \S+: tasks? (?P<task>\d+)\S*: "
    r"(?:(?P<name>Killed|Aborted|Segmentation fault|Bus error|Terminated)|Exited with exit code)"
)
_SIGNAL_NAMES = {"9": "Killed", "6": "Aborted", "11": "Segmentation fault", "7": "Bus error"}


def settle(run: RunDir, launcher_text: str, attempt: int | None) -> RunState:
    """Writes into state.json how an attempt ended (None: no rank of the start has come up); returns the state."""
    reason, detail, rank = explain(run, launcher_text, attempt)
    return run.state.failed(reason, detail, rank, attempt=attempt)


def explain(run: RunDir, launcher_text: str, attempt: int | None) -> tuple[str, str, int | None]:
    """Returns reason, detail, and the rank at fault: the first that failed, not those it took along, or None."""
    launcher_text = launcher_text.rpartition(START_MARK)[2]  # of the last start alone
    if run.cancel_file.exists():
        return Reason.CANCELLED, "cancelled by the user", None
    ranks = run.rank_files(attempt) if attempt is not None else []
    failure = run.failure(attempt) if attempt is not None else None
    silent = [who["rank"] for who in ranks if who["outcome"] == "running"]
    if failure and (failure["reason"] != Reason.COLLECTIVE_TIMEOUT or not silent):
        return failure["reason"], failure["detail"], failure["rank"]
    first = _ENDED.search(launcher_text)
    how = (first["name"] or _SIGNAL_NAMES.get(first["number"], first["number"])) if first else None
    if re.search(r"(?i)oom.?kill|out of memory", launcher_text):
        return (
            Reason.OUT_OF_MEMORY,
            "the kernel or Slurm ended a rank for its memory",
            silent[0] if silent else None,
        )
    if first and how:
        rank = int(first["rank"] or first["task"])
        return Reason.RANK_KILLED, f"rank {rank}: {how}, from outside or by the kernel", rank
    if failure:
        return failure["reason"], failure["detail"], failure["rank"]
    if silent:
        return Reason.RANK_KILLED, f"rank {silent[0]} ended without a word", silent[0]
    last = launcher_text.strip().splitlines()[-3:]
    if not last:
        return Reason.LOST, "the process ended without a word, before it had begun", None
    return Reason.ERROR, f"the ranks did not start: {' '.join(last)}"[:500], None
