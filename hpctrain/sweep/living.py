"""Which jobs of a study live, and how many runs they will still do, according to Slurm or to the processes here.

Takes a study's folder and Slurm's queue; returns numbers. No side effects, no torch.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpctrain.scheduler import answers
from hpctrain.scheduler.answers import Job
from hpctrain.storage.folders import absolute
from hpctrain.storage.lock import Owner, has_ended, this_process
from hpctrain.sweep.arrays import quota_of
from hpctrain.sweep.settings import sweep_config
from hpctrain.sweep.study_dir import JobRecord, StudyDir


@dataclass(frozen=True)
class LiveJob:
    """A job that waits or runs. It will begin `begins` more runs, and end `ends`, which counts those that run now.

    None: it works until nothing is left.
    """

    job_id: str
    begins: int | None
    ends: int | None


def in_slurm(study: StudyDir, queue: Mapping[str, Job]) -> list[LiveJob]:
    """Returns the jobs of the study in a queue."""
    mine = _mine(study, queue)
    if not mine:
        return []
    quotas, records = study.quotas(), _newest(study.jobs())
    usual = quota_of(sweep_config(study.parts()[-1]["sweep"]))  # of an array whose submitter died
    return [
        _live(job, quotas.get(job.job_id.partition("_")[0], usual), records.get(job.job_id)) for job in mine
    ]


def ids_in_slurm(study: StudyDir, queue: Mapping[str, Job]) -> list[str]:
    """Returns the ids of the study's jobs in a queue, whatever its files say."""
    return [job.job_id for job in _mine(study, queue)]


def _mine(study: StudyDir, queue: Mapping[str, Job]) -> list[Job]:
    return [j for j in queue.values() if j.comment == study.comment and j.state not in answers.ENDED]


def here(study: StudyDir) -> tuple[int, int]:
    """Returns how many processes of this machine work on the study, and how many may do so on others."""
    mine = this_process(0)
    records = [job["owner"] for job in study.jobs() if job["until"] is None and job["job_id"] is None]
    # A job's own record comes once it has imported everything; its submitter notes the process that waits for it.
    counts = [_count(owners, mine) for owners in (study.processes(), records)]
    return max(live for live, _ in counts), max(unknown for _, unknown in counts)


def elsewhere(study: StudyDir) -> str:
    """Returns what to do about processes of which nobody here knows whether they live."""
    unlock = f"hpctrain sweep --unlock {shlex.quote(str(absolute(study.path)))}"
    return f"its processes on other hosts may live; if you know that they have ended: {unlock}"


def _count(owners: Sequence[Mapping[str, Any]], mine: Owner) -> tuple[int, int]:
    ended = [has_ended(Owner(**owner), mine, None) for owner in owners]
    return ended.count(False), ended.count(None)


def _live(job: Job, quota: int | None, record: JobRecord | None) -> LiveJob:
    if quota is None:
        return LiveJob(job.job_id, None, None)
    if record is None or job.state in answers.WAITING:  # each start of a job has the whole quota
        return LiveJob(job.job_id, quota, quota)
    if record["until"] is not None:  # an earlier start's, unless the job is about to leave
        left = 0 if job.state == "COMPLETING" else quota
        return LiveJob(job.job_id, left, left)
    begins = max(0, quota - record.get("taken", 0))
    return LiveJob(job.job_id, begins, begins + record.get("busy", 0))


def _newest(records: Sequence[JobRecord]) -> dict[str, JobRecord]:
    """The record of each Slurm job's newest start."""
    by_job: dict[str, JobRecord] = {}
    for record in sorted(records, key=lambda record: record["began"]):
        if record["job_id"] is not None:
            by_job[record["job_id"]] = record
    return by_job
