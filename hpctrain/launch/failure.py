"""Why an attempt ended, if no rank was left to say so: from what ranks and launcher left behind.

Takes a run directory, the launcher's output (mpirun's, srun's, horovodrun's) and its exit code; returns a reason of
storage/run_state.py, and writes it. Only once the launcher has ended.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from hpctrain.scheduler.sbatch import START_MARK
from hpctrain.storage import last_word
from hpctrain.storage.last_word import EXIT_DISK_FULL, LastWord
from hpctrain.storage.patience import PATIENCE_S, patiently
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Phase, Reason, RunState, reason_of_oserror

# The first task that ended badly: as mpirun says it, and as srun does ("node2: task 1: Killed").
_ENDED = re.compile(
    r"process rank (?P<rank>\d+) .*exited on signal (?P<number>\d+)"
    r"|srun: error: \S+: tasks? (?P<task>\d+)\S*: "
    r"(?:(?P<name>Killed|Aborted|Segmentation fault|Bus error|Terminated)|Exited with exit code)"
)
_ENDED_FULL = re.compile(rf"(?i)exit code:?\s+{EXIT_DISK_FULL}\b")  # in srun's words and in mpirun's
_GUESSED = ("ended without a word", "the ranks did not start")  # of ends that nothing explains
_SIGNAL_NAMES = {"9": "Killed", "6": "Aborted", "11": "Segmentation fault", "7": "Bus error"}


def settle(run: RunDir, launcher_text: str, before: int = 0, code: int | None = None) -> RunState:
    """Writes the end of the newest attempt into state.json, if the disk takes it; returns the state.

    Attempts up to `before` do not count. `code`: the launcher's exit code.
    """
    reason, detail, rank = explain(run, launcher_text, before, code)
    # Whoever ended for a full disk has waited for it already.
    patience_s = 0.0 if reason == Reason.DISK_FULL else PATIENCE_S
    try:
        return patiently(lambda: run.state.failed(reason, detail, rank), patience_s)
    except OSError as error:
        if reason_of_oserror(error) is None:
            raise
        if any(words in detail for words in _GUESSED):
            reason, detail = str(reason_of_oserror(error)), f"nothing can be written: {error}"
        return replace(run.read_state(), phase=Phase.FAILED, reason=reason, detail=detail, rank=rank)


def explain(
    run: RunDir, launcher_text: str, before: int = 0, code: int | None = None
) -> tuple[str, str, int | None]:
    """Returns reason, detail, and the rank at fault: the first that failed, not those it took along, or None."""
    launcher_text = launcher_text.rpartition(START_MARK)[2]  # of the last start alone
    if run.cancel_file.exists():
        return Reason.CANCELLED, "cancelled by the user", None
    attempts = [number for number in run.attempts() if number > before]
    ranks = run.rank_files(attempts[-1]) if attempts else []
    failure = run.failure(attempts[-1]) if attempts else None
    silent = [who["rank"] for who in ranks if who["outcome"] == "running"]
    said = _said(run, attempts[-1] if attempts else None, launcher_text)
    if code == EXIT_DISK_FULL or _ENDED_FULL.search(launcher_text):  # the failure may be an earlier start's
        if failure and failure["reason"] != Reason.DISK_FULL:
            failure = None
        if failure is None and (said is None or said.reason != Reason.DISK_FULL):
            said = LastWord(Reason.DISK_FULL, "a rank could not even write why it ended", None)
    if failure and (failure["reason"] != Reason.COLLECTIVE_TIMEOUT or not silent):
        return failure["reason"], failure["detail"], failure["rank"]
    if said and (said.reason != Reason.COLLECTIVE_TIMEOUT or not silent):
        return said
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


def last_said(run: RunDir, launcher_text: str) -> LastWord | None:
    """Returns what the newest start said of its end, if state.json could not be written then; None if nothing."""
    state = run.read_state()
    attempt = state.attempt if state.phase == Phase.RUNNING else None  # else it may be of an earlier start
    failure = run.failure(attempt) if attempt else None
    if failure:
        return LastWord(failure["reason"], failure["detail"], failure["rank"])
    return _said(run, attempt, launcher_text.rpartition(START_MARK)[2])


def _said(run: RunDir, attempt: int | None, launcher_text: str) -> LastWord | None:
    """The last word of a rank that could not write a file: in the launcher's output or in the rank's log."""
    logs = sorted(run.attempt(attempt).glob("rank_*.log")) if attempt else []
    return last_word.find("\n".join([launcher_text, *map(_tail, logs)]))


def _tail(path: Path, size: int = 4096) -> str:
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - size))
        return file.read().decode(errors="replace")
    return ""
