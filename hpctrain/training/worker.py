"""One rank of a run, as a process: `python -m hpctrain.training.worker RUN_DIR TOKEN`.

Takes a run directory with its config.yaml and the token of this attempt, which is the same on all ranks; runs the loop.
Side effects: stdout and stderr go to attempts/<n>/rank_<r>.log, signals are taken over, and rank 0 writes state.json.
The exit code is 0 if the run is done or stopped in good order, 228 if it failed as DISK_FULL, and 1 if it failed for
another reason; why is also said on the stderr that the process began with (storage/last_word.py).
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import io
import json
import os
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from hpctrain import job_environment
from hpctrain.errors import RunFailed, UserError
from hpctrain.storage import last_word
from hpctrain.storage.json_files import replace_text
from hpctrain.storage.last_word import LastWord
from hpctrain.storage.lock import JobEnded
from hpctrain.storage.patience import PATIENCE_S, patiently
from hpctrain.storage.run_dir import RunDir, claim_attempt
from hpctrain.storage.run_state import Reason, reason_of_oserror
from hpctrain.training.stop import StopFlag


def work(run: RunDir, token: str, job_ended: JobEnded | None = None, end_s: float | None = None) -> int:
    """Run this process's rank to its end. Returns the exit code. Never raises: the reason is in the run directory.

    `job_ended` asks Slurm whether a job has ended (storage/lock.py). `end_s`: when Slurm kills this job, in seconds
    since the epoch.
    """
    stop = StopFlag()
    stop.install()  # before the imports that take seconds: a signal is never lost
    rank = job_environment.read().rank
    launcher = os.dup(2)
    try:
        attempt = patiently(lambda: claim_attempt(run, token))
        patiently(lambda: _redirect_output(run.rank_log(attempt, rank)))
    except BaseException as error:
        if not isinstance(error, OSError):
            traceback.print_exc()
        _end(launcher, LastWord(*_reason_of(error), rank))
    try:
        patiently(lambda: _say_who(run, attempt, rank, "running"))
        # Imported here so that an import that fails is a reason like any other.
        from hpctrain.config.load import from_dict
        from hpctrain.training.session import run_session

        stuck = functools.partial(_give_up, run, attempt, rank, launcher)
        reason = run_session(from_dict(run.read_config()), run, attempt, stop, stuck, job_ended, end_s)
    except BaseException as error:
        reason, detail = _reason_of(error)
        if reason != Reason.DISK_FULL:
            traceback.print_exc()
        _fail(run, attempt, rank, launcher, reason, detail)
    with contextlib.suppress(OSError):
        _say_who(run, attempt, rank, reason)
    os.close(launcher)
    return 0


def _fail(run: RunDir, attempt: int, rank: int, launcher: int, reason: str, detail: str) -> NoReturn:
    """Say why this rank ends, in the run's files as far as they can be written, and end it."""
    print(last_word.line(LastWord(reason, detail, rank)), file=sys.stderr, flush=True)
    failure = {"rank": rank, "host": socket.gethostname(), "reason": reason, "detail": detail}
    # Whoever ends for a full disk has waited for it already.
    patience_s = 0.0 if reason == Reason.DISK_FULL else PATIENCE_S
    with contextlib.suppress(OSError):
        _say_who(run, attempt, rank, reason, detail)
    try:
        first = patiently(lambda: run.claim_failure(attempt, failure), patience_s)
        # The state of a run that another attempt owns is not ours to write.
        if first and reason != Reason.RUN_LOCKED:
            patiently(lambda: run.state.failed(reason, detail, rank, socket.gethostname()), patience_s)
    except OSError as error:
        print(f"state.json does not say so: {error}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    _end(launcher, LastWord(reason, detail, rank))


def _end(launcher: int, word: LastWord) -> NoReturn:
    """Tell the launcher why, and leave at once: an orderly exit would wait for ranks that wait for us."""
    with contextlib.suppress(OSError):
        os.write(launcher, f"{last_word.line(word)}\n".encode())
    os._exit(last_word.exit_code(word.reason))


def _give_up(run: RunDir, attempt: int, rank: int, launcher: int, detail: str) -> None:
    """The other ranks do not answer: show where this one waits for them, and end it."""
    faulthandler.dump_traceback()
    _fail(run, attempt, rank, launcher, Reason.COLLECTIVE_TIMEOUT, detail)


def _reason_of(error: BaseException) -> tuple[str, str]:
    """Returns the reason (storage/run_state.py) of what went wrong, and its details in one line."""
    detail = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    match error:
        case RunFailed():
            return error.reason, error.detail
        case UserError():
            return Reason.DATA_ERROR if error.key.startswith("data") else Reason.ERROR, str(error)
        case ImportError():
            return Reason.IMPORT_ERROR, detail
        case MemoryError():
            return Reason.OUT_OF_MEMORY, detail
        case OSError() if (reason := reason_of_oserror(error)) is not None:
            return reason, detail
    if "out of memory" in str(error).lower() or "can't allocate memory" in str(error).lower():
        return Reason.OUT_OF_MEMORY, detail
    return Reason.ERROR, detail


def _say_who(run: RunDir, attempt: int, rank: int, outcome: str, detail: str = "") -> None:
    """rank_<r>.json: where this rank runs, and how it ended; a reader finds the first that failed."""
    who = {
        "rank": rank, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time(),
        "outcome": outcome, "detail": detail,
    }  # fmt: skip
    replace_text(run.rank_file(attempt, rank), json.dumps(who))


def _redirect_output(path: Path) -> None:
    """stdout and stderr of this process, C libraries included, into its log."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(
            io.BufferedWriter(_Log(number, "w", closefd=False)), "utf-8", "replace", line_buffering=True
        )
        for number in (1, 2)
    )


class _Log(io.FileIO):
    """A log that loses lines if storage does not take them: a line is not worth a run."""

    def write(self, data: Any) -> int:
        """Returns how many bytes of `data` are dealt with."""
        try:
            return super().write(data)
        except OSError:
            return len(data)


if __name__ == "__main__":
    sys.exit(work(RunDir(Path(sys.argv[1])), sys.argv[2]))
