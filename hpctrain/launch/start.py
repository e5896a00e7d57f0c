"""The right to start a run: of all processes on all hosts, one has it, from its look at the run to the new job's id.

Without it, two processes could look at a run, see nothing under way, and each start a job. The right is a term like
that of the writers (storage/lock.py), in <run>/start/; on this machine the launcher of the ranks keeps it until they
have ended. Only a `Right` can submit a run. Side effects: files there, and questions to Slurm.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hpctrain.config.settings import Config
from hpctrain.errors import RunFailed
from hpctrain.scheduler import client, submit
from hpctrain.storage import lock
from hpctrain.storage.full_disk import patiently
from hpctrain.storage.lock import Owner
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Reason

PATIENCE_S = 90.0  # with another process that submits the run: sbatch may take this long


@dataclass(frozen=True)
class Right:
    """The right to start `run`, inside the block of `hold` that made it."""

    run: RunDir

    def submit(
        self, config: Config, job: Callable[[str], Any], goes_on: bool = False, after: str | None = None
    ) -> str:
        """Submits the run as a job that calls `job` with its path; returns the job id. See scheduler/submit.py."""
        return submit.submit(self.run, config, job, goes_on, after)


@contextlib.contextmanager
def hold(run: RunDir, patience_s: float = 0.0) -> Iterator[Right]:
    """Yields the right to start `run`, for the block. Raises RunFailed(RUN_LOCKED), naming the owner, and OSError.

    Waits for `patience_s` if another process has the right, or if the disk is full.
    """
    submission = run.submission.read()
    if submission.foreign:
        raise RunFailed(Reason.RUN_LOCKED, f"the folder of {run.run_id} {submission.foreign}")
    conf = submission.slurm_conf

    def ended(job_id: str) -> bool | None:  # asked anew at each look: the owner may end meanwhile
        return client.has_ended(job_id, conf)

    def take() -> lock.Term:
        return lock.acquire(run.start_folder, 0, ended, patience_s, doing="starting it")

    with patiently(take, patience_s):
        yield Right(run)


def starter(run: RunDir) -> tuple[Owner | None, bool | None]:
    """Returns the last owner of the right to start `run`, and whether that process has ended (None: unknown).

    Returns (None, True) if the right never had an owner, or if the record is damaged.
    """
    try:
        owner = lock.last_owner(run.start_folder)
    except RunFailed:
        owner = None
    return owner, owner is None or lock.has_ended(owner, lock.this_process(0), None)
