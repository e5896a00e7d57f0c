"""Asking Slurm: each function is one call of a Slurm command, with a time limit and a clear failure.

Takes job ids, returns what answers.py parses. `Unreachable` says that Slurm did not answer: that is not news
about the jobs. Side effects: those of the commands.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from hpctrain import job_environment
from hpctrain.scheduler import answers
from hpctrain.scheduler.answers import Job

TIMEOUT_S = 15.0
SACCT_JOBS = 5000  # an argument may have 128 KiB


class Unreachable(Exception):
    """Slurm did not answer (controller down, command missing or hanging)."""


def run(command: Sequence[str], slurm_conf: str | None = None, timeout_s: float = TIMEOUT_S) -> str:
    """Standard output of a Slurm command; `slurm_conf` where the default cluster is not meant.

    Raises Unreachable.
    """
    env = job_environment.for_slurm(slurm_conf)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=env)
    except FileNotFoundError:
        raise Unreachable(f"{command[0]} is not installed here") from None
    except subprocess.TimeoutExpired:
        raise Unreachable(f"{command[0]} did not answer within {timeout_s:g} s") from None
    if done.returncode != 0:
        raise Unreachable(" ".join(done.stderr.split()) or f"{command[0]} failed ({done.returncode})")
    return done.stdout


def queue(slurm_conf: str | None = None) -> dict[str, Job]:
    """All of this user's jobs that Slurm still holds, by job id: one squeue call for any number of runs."""
    whose = [f"--user={os.geteuid()}", "--states=all", "--array"]
    command = ["squeue", "--noheader", *whose, f"--format={answers.SQUEUE_FORMAT}"]
    return {job.job_id: job for job in answers.parse_squeue(run(command, slurm_conf))}


def max_array_size(slurm_conf: str | None = None) -> int:
    """One more than the tasks that a job array may have. Raises Unreachable."""
    return answers.parse_max_array_size(run(["scontrol", "show", "config"], slurm_conf))


def history(job_ids: Sequence[str], slurm_conf: str | None = None) -> dict[str, Job]:
    """What accounting remembers of jobs that have left the queue; {} if there is none."""
    if not job_ids or shutil.which("sacct") is None:
        return {}
    what = ["--noheader", "--parsable2", "--format=JobID,State,Comment"]
    found: dict[str, Job] = {}
    try:
        for first in range(0, len(job_ids), SACCT_JOBS):
            ids = ",".join(job_ids[first : first + SACCT_JOBS])
            text = run(["sacct", *what, f"--jobs={ids}"], slurm_conf)
            found |= {job.job_id: job for job in answers.parse_sacct(text)}
    except Unreachable:
        pass  # accounting is a help, never needed
    return found


def energy_j(job_ids: Sequence[str], slurm_conf: str | None = None) -> dict[str, float]:
    """Joules of whole jobs, where the cluster measures them (AcctGatherEnergyType); {} if it does not."""
    if not job_ids or shutil.which("sacct") is None:
        return {}
    what = ["--noheader", "--parsable2", "--format=JobIDRaw,ConsumedEnergyRaw"]
    try:  # a help, for which nobody waits long
        text = run(["sacct", *what, f"--jobs={','.join(job_ids[:SACCT_JOBS])}"], slurm_conf, timeout_s=2.0)
    except Unreachable:
        return {}
    return answers.parse_energy(text)


def find_by_comment(comment: str, slurm_conf: str | None = None) -> list[str]:
    """The jobs with this comment, oldest first: a submission whose answer was lost."""
    found = [job.job_id for job in queue(slurm_conf).values() if job.comment == comment]
    return sorted(found, key=lambda job_id: int(job_id.split("_")[0]))


def has_ended(job_id: str) -> bool | None:
    """Whether a job of this user's holds no node any more; None: Slurm does not answer.

    `job_id` as the job itself sees it (SLURM_JOB_ID), which for a task of an array is not 12_3.
    """
    active = active_jobs()
    return None if active is None else job_id not in active


def active_jobs() -> set[str] | None:
    """This user's jobs that hold nodes, by SLURM_JOB_ID; None: Slurm does not answer."""
    command = ["squeue", "--noheader", "--array", f"--user={os.geteuid()}", "--states=all", "--format=%A|%T"]
    try:
        lines = run(command).splitlines()
    except Unreachable:
        return None
    states = (line.strip().partition("|") for line in lines)
    return {job_id for job_id, _, state in states if state in answers.ACTIVE}


def end_s(job_id: str) -> float | None:
    """When this very job is killed for its time limit, in seconds since the epoch; None: Slurm does not say."""
    said = job_environment.read().end_s
    if said is not None:
        return said
    try:
        return answers.parse_time(run(["squeue", "--noheader", f"--jobs={job_id}", "--format=%e"]))
    except Unreachable:
        return None  # the warning alone tells the job to stop


def cancel(job_ids: Sequence[str], slurm_conf: str | None = None) -> None:
    """scancel; jobs that have ended are not an error."""
    if job_ids:
        run(["scancel", "--quiet", *job_ids], slurm_conf)


def in_grace(job_id: str) -> bool:
    """Whether a job of ours that got a SIGTERM is being preempted, with time to end by itself."""
    try:
        return answers.in_grace(run(["scontrol", "show", "job", job_id]))
    except Unreachable:
        return False


def requeue(job_id: str) -> None:
    """Put a running job back into the queue, from inside it. Raises Unreachable where that is refused."""
    run(["scontrol", "requeue", job_id])
