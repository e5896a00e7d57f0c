"""One rank of a run, as a process: `python -m hpctrain.training.worker RUN_DIR TOKEN`.

Takes a run directory with its config.yaml and the token of this attempt, which is the same on all ranks; runs the loop.
Side effects: stdout and stderr go to attempts/<n>/rank_<r>.log, signals are taken over, and rank 0 writes state.json.
The exit code is 0 if the run is done or stopped in good order, and 1 if it failed.
"""

from __future__ import annotations

import faulthandler
import functools
import json
import os
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

from hpctrain import job_environment
from hpctrain.errors import RunFailed, UserError
from hpctrain.scheduler.time_limit import TimeLeft
from hpctrain.storage.config_file import KEY as CONFIG_FILE
from hpctrain.storage.json_files import replace_text
from hpctrain.storage.lock import JobEnded, this_process
from hpctrain.storage.run_dir import RunDir, claim_attempt
from hpctrain.storage.run_state import Reason, reason_of_oserror
from hpctrain.storage.succession import superseded
from hpctrain.training.stop import StopFlag


def work(
    run: RunDir, token: str, job_ended: JobEnded | None = None, time_left: TimeLeft | None = None
) -> int:
    """Run this process's rank to its end. Returns the exit code. Never raises: the reason is in the run directory.

    `job_ended` asks Slurm whether a job has ended (storage/lock.py); `time_left` how many seconds this one has left.
    """
    stop = StopFlag()
    stop.install()  # before the imports that take seconds: a signal is never lost
    rank = job_environment.read().rank
    attempt = claim_attempt(run, token)
    _redirect_output(run.rank_log(attempt, rank))
    faulthandler.enable()  # where native code crashed, in the rank's log
    _say_who(run, attempt, rank, "running")
    try:
        # Imported here so that an import that fails is a reason like any other.
        from hpctrain.config.load import from_dict
        from hpctrain.training.session import run_session

        stuck = functools.partial(_give_up, run, attempt, rank, job_ended)
        reason = run_session(from_dict(run.read_config()), run, attempt, stop, stuck, job_ended, time_left)
    except BaseException as error:
        traceback.print_exc()
        _fail(run, attempt, rank, job_ended, *_reason_of(error))
    _say_who(run, attempt, rank, reason)
    return 0


def _fail(
    run: RunDir, attempt: int, rank: int, job_ended: JobEnded | None, reason: str, detail: str
) -> NoReturn:
    """Say why this rank ends, and end it."""
    print(f"rank {rank}: {reason}: {detail}", file=sys.stderr, flush=True)
    _say_who(run, attempt, rank, reason, detail)
    failure = {"rank": rank, "host": socket.gethostname(), "reason": reason, "detail": detail}
    if run.claim_failure(attempt, failure) and not superseded(
        run, attempt, job_environment.read().job_id, job_ended
    ):
        run.state.failed(reason, detail, rank, socket.gethostname(), attempt)
    # Leave at once: an orderly exit would wait for ranks that wait for us.
    sys.stdout.flush()
    os._exit(1)


def _give_up(run: RunDir, attempt: int, rank: int, job_ended: JobEnded | None, detail: str) -> None:
    """The other ranks do not answer: show where this one waits for them, and end it."""
    faulthandler.dump_traceback()
    _fail(run, attempt, rank, job_ended, Reason.COLLECTIVE_TIMEOUT, detail)


def _reason_of(error: BaseException) -> tuple[str, str]:
    """Returns the reason (storage/run_state.py) of what went wrong, and its details in one line."""
    detail = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    match error:
        case RunFailed():
            return error.reason, error.detail
        case UserError() if error.key == CONFIG_FILE:
            return Reason.CONFIG_CHANGED, str(error)
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
    process = this_process(attempt)
    who = {
        "rank": rank, "host": process.host, "pid": process.pid, "boot": process.boot, "started": process.started,
        "time": time.time(), "outcome": outcome, "detail": detail,
    }  # fmt: skip
    replace_text(run.rank_file(attempt, rank), json.dumps(who))


def _redirect_output(path: Path) -> None:
    """stdout and stderr of this process, C libraries included, into its log."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


if __name__ == "__main__":
    sys.exit(work(RunDir(Path(sys.argv[1])), sys.argv[2]))
