"""One rank of a run, as a process: `python -m hpctrain.training.worker RUN_DIR TOKEN`.

Takes a run directory with its config.yaml and the token of this attempt, which is the same on all ranks; runs the loop.
Side effects: stdout and stderr go to attempts/<n>/rank_<r>.log, signals are taken over, and rank 0 writes state.json.
The exit code is 0 if the run is done or stopped in good order, else that of its reason (storage/run_state.py). The
process says why also on the stderr that it began with (storage/last_word.py).
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from hpctrain import job_environment
from hpctrain.errors import Damaged, RunFailed, UserError
from hpctrain.scheduler.time_limit import TimeLeft
from hpctrain.shown import without_secrets
from hpctrain.storage import attempts, last_word, output
from hpctrain.storage.config_file import KEY as CONFIG_FILE
from hpctrain.storage.full_disk import PATIENCE_S, patiently
from hpctrain.storage.json_files import replace_text
from hpctrain.storage.last_word import LastWord
from hpctrain.storage.lock import JobEnded, this_process
from hpctrain.storage.run_dir import RunDir, claim_attempt
from hpctrain.storage.run_state import Reason, reason_of_oserror, says_out_of_memory
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
    number, launcher = job_environment.read().rank, os.dup(2)
    try:
        run.refuse_others()  # before it writes anything, or believes any file
        attempt = patiently(lambda: claim_attempt(run, token))
        patiently(lambda: _redirect_output(run.rank_log(attempt, number)))
    except BaseException as error:
        explain = _reason_of if isinstance(error, OSError) else _explain
        _end(launcher, LastWord(*explain(error), number))
    faulthandler.enable()  # says in the rank's log where native code crashed
    rank = _Rank(run, attempt, number, launcher, job_ended)
    try:
        patiently(lambda: rank.say(attempts.RUNNING))
        # Imported here so that a failed import is a reason like any other.
        from hpctrain.config.load import from_dict
        from hpctrain.training.session import run_session

        config = from_dict(run.own_config())
        reason = run_session(config, run, attempt, stop, rank.give_up, job_ended, time_left)
    except BaseException as error:
        rank.fail(*_explain(error))
    with contextlib.suppress(OSError):
        rank.say(reason)
    os.close(launcher)
    return 0


@dataclass(frozen=True)
class _Rank:
    """This process. `launcher`: the stderr that it began with; `job_ended` as in storage/lock.py."""

    run: RunDir
    attempt: int
    number: int
    launcher: int
    job_ended: JobEnded | None

    def say(self, outcome: str, detail: str = "") -> None:
        """Write rank_<r>.json: where this rank runs, and how it ended. Readers look there for the first that failed."""
        process = this_process(self.attempt)
        who = {
            "rank": self.number, "host": process.host, "pid": process.pid, "boot": process.boot,
            "started": process.started, "time": time.time(), "outcome": outcome, "detail": detail,
        }  # fmt: skip
        replace_text(self.run.rank_file(self.attempt, self.number), json.dumps(who))

    def fail(self, reason: str, detail: str) -> NoReturn:
        """Write why this rank ends into the run's files, as far as they can be written, and end it."""
        word = LastWord(reason, detail, self.number)
        print(last_word.line(word), file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):
            self.say(reason, detail)
        try:
            self._publish(word)
        except OSError as error:
            print(f"state.json does not say so: {error}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        _end(self.launcher, word)

    def give_up(self, detail: str) -> None:
        """The other ranks do not answer: show where this one waits for them, and end it."""
        faulthandler.dump_traceback()
        self.fail(Reason.COLLECTIVE_TIMEOUT, detail)

    def _publish(self, word: LastWord) -> None:
        """Write failure.json, and state.json if the run is still this attempt's, unless another rank failed first."""
        host, job_id = socket.gethostname(), job_environment.read().job_id
        failure = {"rank": self.number, "host": host, "reason": word.reason, "detail": word.detail}
        # A rank that ends because of a full disk has waited for space already.
        patience_s = 0.0 if word.reason == Reason.DISK_FULL else PATIENCE_S
        first = patiently(lambda: self.run.claim_failure(self.attempt, failure), patience_s)
        if first and not superseded(self.run, self.attempt, job_id, self.job_ended):
            state = self.run.state
            patiently(
                lambda: state.failed(word.reason, word.detail, self.number, host, self.attempt, job_id),
                patience_s,
            )


def _end(launcher: int, word: LastWord) -> NoReturn:
    """Tell the launcher why, and exit at once: an orderly exit would wait for ranks that wait for this one."""
    with contextlib.suppress(OSError):
        os.write(launcher, f"{last_word.line(word)}\n".encode())
    os._exit(last_word.exit_code(word.reason))


def _explain(error: BaseException) -> tuple[str, str]:
    """Returns what `_reason_of` does; prints the traceback of an error for which hpctrain does not have words."""
    reason, detail = _reason_of(error)
    detail = without_secrets(detail)
    if reason != Reason.DISK_FULL and not isinstance(error, (RunFailed, UserError, Damaged)):
        traceback.print_exc()
    return reason, detail


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
    if says_out_of_memory(str(error)):
        return Reason.OUT_OF_MEMORY, detail
    return Reason.ERROR, detail


def _redirect_output(path: Path) -> None:
    """Send stdout and stderr of this process, those of C libraries included, into its log."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    output.as_log()


if __name__ == "__main__":
    sys.exit(work(RunDir(Path(sys.argv[1])), sys.argv[2]))
