"""`python -P -m hpctrain.scheduler.checked FOLDER`: the first line of Python of each job, in place of submitit's own.

Takes submitit's folder of a run or of a study. Checks the owner of every folder from run.root down to it, and of the
pickle that says what to call; only then does submitit load the pickle. What the call returns is not kept: the run's
files say how it ended. submitit finds its files through the descriptor that was checked, so a folder that replaces
another afterwards is not seen. Side effects: those of the job.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from hpctrain import job_environment
from hpctrain.errors import Foreign, RunFailed
from hpctrain.job_environment import submitit_in
from hpctrain.patience import Patience
from hpctrain.storage import last_word, output, ownership
from hpctrain.storage.run_state import Phase, Reason, StateFile

PATIENCE_S = 60.0  # for the submitter to give the pickle the name that submitit expects


def main() -> int:
    """Runs the job; returns 1 without running it if users other than its submitter could have written its files.

    Returns the exit code of the reason if the call fails for its storage. Raises what else the call raises.
    """
    folder = Path(sys.argv[1])
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, _too_early)
    try:
        handle = ownership.walk(folder.parents[2], folder)
        seen = f"/proc/self/fd/{handle}"
        submitit_in(seen)
        from submitit.core.job_environment import JobEnvironment
        from submitit.core.utils import DelayedSubmission

        pickle = JobEnvironment().paths.submitted_pickle
        _look_at(pickle.name, handle, folder)
    except OSError as error:
        print(f"hpctrain: the job is not run: {error}", file=sys.stderr, flush=True)
        _note(folder, f"the job is not run: {error}")
        return 1
    try:
        DelayedSubmission.load(pickle).result()
    except (RunFailed, OSError) as error:
        word = last_word.of(error)
        if word is None:
            raise
        print(last_word.line(word), file=sys.stderr, flush=True)
        return last_word.exit_code(word.reason)
    return 0


def _too_early(number: int, frame: object) -> None:
    """A warning before what the job calls has handlers of its own: there is nothing to save yet."""


def _note(folder: Path, why: str) -> None:
    """Says in state.json of the run, which waits for this job, why it does not begin.

    Writes only if each folder down to it belongs to this user and is not a link.
    """
    with contextlib.suppress(OSError):
        handle = ownership.walk(folder.parents[2], folder.parent, owner_only=True)
        state = StateFile(Path(f"/proc/self/fd/{handle}/state.json"))
        if state.read().phase in (Phase.SUBMITTED, Phase.REQUEUED):
            state.failed(Reason.ERROR, why, job_id=job_environment.read().job_id)


def _look_at(name: str, handle: int, folder: Path) -> None:
    """Raises Foreign unless only this user can write the pickle, or the file in the same folder that it links to."""
    patience = Patience(PATIENCE_S)
    while True:
        try:
            target = _target(name, handle)
            if os.sep in target:
                raise Foreign(folder / name, f"is a link to {target}")
            pickle = os.open(target, ownership.FILE, dir_fd=handle)
            break
        except FileNotFoundError:
            if patience.is_over():
                raise
        time.sleep(0.1)
    try:
        if why := ownership.others(os.fstat(pickle)):
            raise Foreign(folder / name, why)
    finally:
        os.close(pickle)


def _target(name: str, handle: int) -> str:
    try:
        return os.readlink(name, dir_fd=handle)
    except FileNotFoundError:
        raise
    except OSError:  # not a link
        return name


if __name__ == "__main__":
    output.as_log()
    sys.exit(main())
