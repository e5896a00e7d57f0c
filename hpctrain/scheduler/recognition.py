"""Which of Slurm's jobs belong to a run: by number and token, because numbers are reused and folders are copied.

Pure functions over a run's submission (storage/run_state.py) and jobs (scheduler/answers.py).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hpctrain.scheduler.answers import ENDED, Job
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Submission


def comment_of(run_id: str, token: str) -> str:
    """Returns the comment of the jobs of one submission of a run."""
    return f"hpctrain:{run_id}:{token}"


def is_of(run: RunDir, submission: Submission, job: Job) -> bool:
    """Returns whether `job`, whose number is in `submission`, is the run's, and not a later job of the same number."""
    comment, name = submission.known_as.get(job.job_id, ("", ""))
    if comment and job.comment:
        return job.comment == comment
    if name and job.name:
        return job.name == name
    # An earlier version noted only the newest token, or nothing: this is what all its jobs have in common.
    if job.comment.startswith("hpctrain:"):
        return job.comment.startswith((comment_of(run.run_id, ""), "hpctrain:study:"))
    return True


def is_newest(run: RunDir, submission: Submission, job: Job) -> bool:
    """Returns whether `job` is of the newest submission, by its comment; of any if the newest one is not known."""
    if submission.damage:
        return _works_for(run, job) is True
    return job.comment == comment_of(run.run_id, submission.token)


def perhaps_of(run: RunDir, submission: Submission, jobs: Mapping[str, Job]) -> list[Job]:
    """Returns living jobs that may be the run's if its submission is damaged: Slurm does not say their folder."""
    if not submission.damage:
        return []
    return [job for job in jobs.values() if job.state not in ENDED and _works_for(run, job) is None]


def _works_for(run: RunDir, job: Job) -> bool | None:
    """Whether a job is a run's, by its comment and the folder of its script.

    None if the run id is the same, and Slurm does not name the folder, or names one that no longer exists.
    """
    if not job.comment.startswith(comment_of(run.run_id, "")):
        return False
    script = Path(job.command)
    if script.parent.name != run.submitit.name:  # somebody's own script, or Slurm does not say
        return None
    try:
        return script.parent.samefile(run.submitit)
    except OSError:
        return None


def jobs_of(run: RunDir, submission: Submission, jobs: Mapping[str, Job]) -> list[Job]:
    """Returns the jobs of a run among `jobs` (by id), oldest first, and those whose numbers are not noted yet."""
    if original(run, submission) is not None:
        return []
    own = [jobs[job_id] for job_id in submission.job_ids if job_id in jobs]
    own = [job for job in own if is_of(run, submission, job)]
    if submission.open:  # its submitter has died, or has not finished
        fresh = [job for job in jobs.values() if is_newest(run, submission, job) and job not in own]
        own += sorted(fresh, key=lambda job: int(job.job_id.partition("_")[0]))
    return own


def has_left_its_array(run: RunDir, submission: Submission, arrays: Mapping[str, Job]) -> bool:
    """Returns whether the newest job was a task of an array that Slurm shows without it: the task has ended.

    Slurm at once forgets a task that is cancelled while it waits. `arrays` has one task of each array in the queue, and
    none of them is known to be the run's.
    """
    task = submission.job_ids[-1] if submission.job_ids else ""
    other = arrays.get(task.partition("_")[0])
    return "_" in task and other is not None and is_of(run, submission, replace(other, job_id=task))


def moved_from(run: RunDir, submission: Submission) -> str | None:
    """Returns the folder that the run had when its jobs were submitted; None if it still has it."""
    noted = submission.path
    if noted is None or noted == str(run.path) or os.path.lexists(noted):
        return None
    return noted


def original(run: RunDir, submission: Submission) -> Path | None:
    """Returns the folder of which this run's is a copy, and whose jobs are in `submission`; None if it is not a copy.

    A folder that was moved or renamed, or that has another path here, is not a copy.
    """
    if submission.path is None or submission.path == str(run.path):
        return None
    noted = Path(submission.path)
    try:
        return None if noted.samefile(run.path) else noted
    except OSError:  # it no longer exists
        return None
