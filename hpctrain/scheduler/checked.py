"""`python -P -m hpctrain.scheduler.checked FOLDER`: the first line of Python of each job, in place of submitit's own.

Takes submitit's folder of a run or of a study. Looks at every folder from run.root down to it, and at the pickle that
says what to call; only then does submitit load that. It finds its files through the descriptor that was looked at: a
folder that is put in the place of another afterwards is not seen. Side effects: those of the job.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from pathlib import Path

from hpctrain.errors import Foreign
from hpctrain.job_environment import submitit_in
from hpctrain.patience import Patience
from hpctrain.storage import ownership
from hpctrain.storage.run_state import Phase, Reason, StateFile

PATIENCE_S = 60.0  # with a submitter that has not named the pickle yet, as submitit has it


def main() -> int:
    """Runs the job; returns 1 if it is not run, as others than its submitter could have written what it does."""
    folder = Path(sys.argv[1])
    logging.raiseExceptions = (
        False  # submitit's log on a full disk: a line less, and no traceback in its place
    )
    try:
        handle = ownership.walk(folder.parents[2], folder)
        seen = f"/proc/self/fd/{handle}"
        submitit_in(seen)
        from submitit.core.job_environment import JobEnvironment
        from submitit.core.submission import process_job

        _look_at(JobEnvironment().paths.submitted_pickle.name, handle, folder)
    except OSError as error:
        print(f"hpctrain: the job is not run: {error}", file=sys.stderr, flush=True)
        _note(folder, f"the job is not run: {error}")
        return 1
    process_job(seen)
    return 0


def _note(folder: Path, why: str) -> None:
    """Says in state.json of the run, which waits for this job, why it does not begin.

    Only if each folder down to it belongs to this user and is not a link: in another's, nothing is written.
    """
    with contextlib.suppress(OSError):
        handle = ownership.walk(folder.parents[2], folder.parent, owner_only=True)
        state = StateFile(Path(f"/proc/self/fd/{handle}/state.json"))
        if state.read().phase in (Phase.SUBMITTED, Phase.REQUEUED):
            state.failed(Reason.ERROR, why)


def _look_at(name: str, handle: int, folder: Path) -> None:
    """Raises Foreign unless the pickle, and what it is a link to in its own folder, is this user's alone."""
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
    sys.exit(main())
