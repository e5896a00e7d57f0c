"""Which attempt may say how a run stands: a later attempt or job before an earlier one.

An attempt that the scheduler has given up may go on for a while, or come back, if its node was cut off or its launcher
was stopped. What it says about an end is then about itself only. Takes a run directory; reads small files. No torch.
"""

from __future__ import annotations

from hpctrain.errors import RunFailed
from hpctrain.storage import lock
from hpctrain.storage.lock import JobEnded
from hpctrain.storage.run_dir import RunDir


def superseded(
    run: RunDir, attempt: int | None, job_id: str | None, job_ended: JobEnded | None = None
) -> str | None:
    """Returns who has the run now instead of an attempt of a job; None if this attempt may say how the run stands.

    `attempt` is None if none of its ranks came up, `job_id` outside of Slurm; `job_ended` is as in storage/lock.py. An
    attempt that was refused never supersedes the owner of the newest term.
    """
    if job_id is not None and run.submission.read().has_passed(job_id):
        return "a later submission"
    try:
        owner = lock.last_owner(run.checkpoints)
    except RunFailed as damaged:  # the owner is unknown
        return damaged.detail
    if owner is not None and owner.attempt == attempt:
        return None
    if owner is not None:
        is_later = attempt is not None and owner.attempt > attempt
        if is_later or not lock.has_ended(owner, lock.this_process(attempt or 0), job_ended):
            return f"attempt {owner.attempt} on {owner.host}"
    last = max(run.attempts(), default=0)
    return f"attempt {last}" if attempt is not None and last > attempt else None
