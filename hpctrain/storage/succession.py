"""Whose word on a run counts: that of a later attempt or job, before that of an earlier one.

An attempt that its scheduler has given up may go on for a while, or come back: its node was cut off, its launcher
was stopped. What it says of the run's end is then about itself alone. Takes a run directory; reads small files.
No torch.
"""

from __future__ import annotations

from hpctrain.errors import RunFailed
from hpctrain.storage import lock
from hpctrain.storage.lock import JobEnded
from hpctrain.storage.run_dir import RunDir


def superseded(
    run: RunDir, attempt: int | None, job_id: str | None, job_ended: JobEnded | None = None
) -> str | None:
    """Returns who has the run now instead of an attempt of a job; None if that one may say how the run stands.

    `attempt`: None if no rank of it has come up. `job_id`: None outside of Slurm. `job_ended` as in storage/lock.py.
    Who holds the newest term (storage/lock.py) is never superseded by an attempt that was refused.
    """
    if job_id is not None and run.submission.read().has_passed(job_id):
        return "a later submission"
    try:
        owner = lock.last_owner(run.checkpoints)
    except RunFailed as damaged:  # nobody can tell
        return damaged.detail
    if owner is not None and owner.attempt == attempt:
        return None
    if owner is not None:
        is_later = attempt is not None and owner.attempt > attempt
        if is_later or not lock.has_ended(owner, lock.this_process(attempt or 0), job_ended):
            return f"attempt {owner.attempt} on {owner.host}"
    last = max(run.attempts(), default=0)
    return f"attempt {last}" if attempt is not None and last > attempt else None
