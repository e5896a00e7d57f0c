"""Why an attempt ended, where no rank was left to say so: from what ranks and launcher left behind.

Takes a run directory and the launcher's output (mpirun's, srun's, horovodrun's); gives a reason of
run_dir.REASONS, and writes it. Only once the launcher has ended.
"""

from __future__ import annotations

import re
from typing import Any

from hpctrain.run_dir import RunDir

# A task that a signal ended: as mpirun says it, and as srun does ("node2: task 1: Killed").
_KILLED = (
    re.compile(r"process rank (?P<rank>\d+) .*exited on signal (?P<signal>\d+)"),
    re.compile(
        r"srun: error: \S+: tasks? (?P<rank>\d+)\S*: (?P<signal>Killed|Aborted|Segmentation fault|Bus error)"
    ),
)
_SIGNAL_NAMES = {"9": "Killed", "6": "Aborted", "11": "Segmentation fault", "7": "Bus error"}


def settle(run: RunDir, launcher_text: str) -> dict[str, Any]:
    """Write the end of the newest attempt into state.json; gives the state."""
    reason, detail, rank = explain(run, launcher_text)
    phase = "cancelled" if reason == "CANCELLED" else "failed"
    return run.write_state(phase=phase, reason=reason, detail=detail, rank=rank)


def explain(run: RunDir, launcher_text: str) -> tuple[str, str, int | None]:
    """Reason, detail, and the rank at fault. The first rank that failed counts, not those it took along."""
    if run.cancel_file.exists():
        return "CANCELLED", "cancelled by the user", None
    attempts = run.attempts()
    ranks = run.rank_files(attempts[-1]) if attempts else []
    failure = run.failure(attempts[-1]) if attempts else None
    silent = [who["rank"] for who in ranks if who["outcome"] == "running"]
    if failure and (failure["reason"] != "COLLECTIVE_TIMEOUT" or not silent):
        return failure["reason"], failure["detail"], failure["rank"]
    killed = next((found for pattern in _KILLED if (found := pattern.search(launcher_text))), None)
    if re.search(r"(?i)oom.?kill|out of memory", launcher_text):
        return (
            "OUT_OF_MEMORY",
            "the kernel or Slurm ended a rank for its memory",
            silent[0] if silent else None,
        )
    if killed:
        how = _SIGNAL_NAMES.get(killed["signal"], killed["signal"])
        return (
            "RANK_KILLED",
            f"rank {killed['rank']}: {how}, from outside or by the kernel",
            int(killed["rank"]),
        )
    if failure:
        return failure["reason"], failure["detail"], failure["rank"]
    if silent:
        return "RANK_KILLED", f"rank {silent[0]} ended without a word", silent[0]
    last = launcher_text.strip().splitlines()[-3:]
    return "ERROR", f"the ranks did not start: {' '.join(last)}"[:500], None
