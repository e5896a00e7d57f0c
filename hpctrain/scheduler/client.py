"""Asks Slurm: each function is one call of a Slurm command, with a time limit and a clear failure.

Takes job ids, returns what answers.py parses. `Unreachable` says that Slurm did not answer, which says nothing
about the jobs. Side effects: those of the commands.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hpctrain import job_environment
from hpctrain.scheduler import answers
from hpctrain.scheduler.answers import Job

TIMEOUT_S = 15.0
SHORT_S = 5.0  # for questions that a training run asks beside its steps
SBATCH_TIMEOUT_S = 60.0  # a site's own checks of jobs may take long
RETRY_S = 2.0  # between questions of a job that cannot end before Slurm answers
SACCT_JOBS = 5000  # per call: an argument may have 128 KiB


class Unreachable(Exception):
    """Slurm did not answer (controller down, command missing or hanging)."""


def run(command: Sequence[str], slurm_conf: str | None = None, timeout_s: float = TIMEOUT_S) -> str:
    """Returns the standard output of a Slurm command. Raises Unreachable.

    `slurm_conf` names a cluster other than the default one.
    """
    return _call(command, job_environment.for_slurm(slurm_conf), timeout_s)


def submit(script: Path, slurm_conf: str | None = None) -> str:
    """Submits `script`; returns the id of the new job. Raises Unreachable, with sbatch's words."""
    said = _call(["sbatch", str(script)], job_environment.of_submitter(slurm_conf), SBATCH_TIMEOUT_S)
    job_id = answers.parse_sbatch(said)
    if job_id is None:
        raise Unreachable(f"{answers.NO_JOB_ID}: {' '.join(said.split())[-300:]}")
    return job_id


def _call(command: Sequence[str], env: Mapping[str, str], timeout_s: float) -> str:
    # Slurm's commands would look for it again and again for a minute.
    if conf := job_environment.missing_conf(env):
        raise Unreachable(f"there is no {conf}, which SLURM_CONF or cluster.slurm_conf names")
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
            encoding="utf-8", errors="replace", env=env, start_new_session=True,
        )  # fmt: skip
    except FileNotFoundError:
        raise Unreachable(f"{command[0]} is not installed here") from None
    try:
        said, complaint = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise Unreachable(f"{command[0]} did not answer within {timeout_s:g} s") from None
    finally:
        _end(process)
    if process.returncode != 0:
        raise Unreachable(" ".join(complaint.split()) or f"{command[0]} failed ({process.returncode})")
    return said


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a command that was given up, and what a site's script in its place has started.

    Otherwise an sbatch that waits for the controller would submit the job later, when nobody expects it.
    """
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    with process:  # closes its pipes and waits for it
        pass


def queue(slurm_conf: str | None = None) -> dict[str, Job]:
    """Returns all jobs of this user that Slurm still holds, by job id: one squeue call for any number of runs.

    Includes jobs in hidden partitions and jobs that have just ended. Raises Unreachable.
    """
    whose = ["--all", f"--user={os.geteuid()}", "--states=all", "--array"]
    command = ["squeue", "--noheader", *whose, f"--format={answers.SQUEUE_FORMAT}"]
    return {job.job_id: job for job in answers.parse_squeue(run(command, slurm_conf))}


def max_array_size(slurm_conf: str | None = None) -> int:
    """Returns one more than the largest task number of an array. Raises Unreachable."""
    return answers.parse_max_array_size(run(["scontrol", "show", "config"], slurm_conf))


def history(job_ids: Sequence[str], slurm_conf: str | None = None) -> dict[str, Job]:
    """Returns what accounting knows about jobs that have left the queue; {} without accounting."""
    if not job_ids or shutil.which("sacct") is None:
        return {}
    what = ["--noheader", "--parsable2", f"--format={answers.SACCT_FORMAT}"]
    jobs: dict[str, Job] = {}
    try:
        for first in range(0, len(job_ids), SACCT_JOBS):
            ids = ",".join(job_ids[first : first + SACCT_JOBS])
            text = run(["sacct", *what, f"--jobs={ids}"], slurm_conf)
            jobs |= {job.job_id: job for job in answers.parse_sacct(text)}
    except Unreachable:
        pass  # accounting helps, but nothing needs it
    return jobs


def energy_j(job_ids: Sequence[str], slurm_conf: str | None = None) -> dict[str, float]:
    """Returns the joules of whole jobs; {} if the cluster does not measure them (AcctGatherEnergyType)."""
    if not job_ids or shutil.which("sacct") is None:
        return {}
    what = ["--noheader", "--parsable2", "--format=JobIDRaw,ConsumedEnergyRaw"]
    try:  # nobody should wait long for it
        text = run(["sacct", *what, f"--jobs={','.join(job_ids[:SACCT_JOBS])}"], slurm_conf, timeout_s=2.0)
    except Unreachable:
        return {}
    return answers.parse_energy(text)


class Snapshot:
    """What Slurm knows about this user's jobs: calls squeue once, at the first question, and sacct once per array."""

    def __init__(self, slurm_conf: str | None = None) -> None:
        self._conf = slurm_conf
        self._told: dict[str, Job] | Unreachable | None = None
        self._arrays: dict[str, Job] | None = None
        self._history: dict[str, dict[str, Job]] = {}

    def queue(self) -> dict[str, Job]:
        """Returns what the function `queue` does. Raises Unreachable, at later calls without asking again."""
        if self._told is None:
            try:
                self._told = queue(self._conf)
            except Unreachable as error:
                self._told = error
        if isinstance(self._told, Unreachable):
            raise self._told
        return self._told

    def job(self, job_id: str) -> Job | None:
        """Returns a job; None if Slurm does not know it, which does not mean that it has ended. Raises Unreachable."""
        if job_id in self.queue():
            return self.queue()[job_id]
        array = job_id.partition("_")[0]
        if array not in self._history:
            self._history[array] = history([array], self._conf)
        return self._history[array].get(job_id)

    def has_ended(self, job_id: str) -> bool | None:
        """Returns whether Slurm says that a job no longer works; None if Slurm does not say (see storage/lock.py).

        A job that waits to be started again does not work.
        """
        try:
            job = self.job(job_id)
        except Unreachable:
            return None
        if job is None:
            return self._has_left_its_array(job_id) or None
        if job.writes is None:
            return None
        # Accounting may not know yet of the end, or of the next start.
        return not job.writes if job_id in self.queue() else (job.state in answers.ENDED or None)

    def _has_left_its_array(self, job_id: str) -> bool:
        """Whether the queue shows other tasks of an array, but not this one: Slurm forgets tasks that have ended."""
        array, is_task, _ = job_id.partition("_")
        if self._arrays is None:
            self._arrays = answers.one_of_each_array(self.queue().values())
        return bool(is_task) and array in self._arrays


class Queues:
    """The queues of several clusters, each asked for once."""

    def __init__(self) -> None:
        self._snapshots: dict[str | None, Snapshot] = {}

    def of(self, slurm_conf: str | None) -> dict[str, Job] | None:
        """Returns what `queue` does; None if Slurm does not answer."""
        try:
            return self._snapshots.setdefault(slurm_conf, Snapshot(slurm_conf)).queue()
        except Unreachable:
            return None


def has_ended(job_id: str, slurm_conf: str | None = None) -> bool | None:
    """Returns what a new `Snapshot` says of one job."""
    return Snapshot(slurm_conf).has_ended(job_id)


def time_left(job_id: str) -> float | None:
    """Returns the seconds until Slurm ends a job for its time limit; None if Slurm does not say.

    Takes both the end and the present time from the controller, because the clock of this node, by which squeue and the
    job's own environment count, may be wrong. If the site does not let users ask for the time, that clock has to do.
    """
    command = ["squeue", "--all", "--noheader", f"--jobs={job_id}", "--format=%e|%L"]
    try:
        try:
            now_s = answers.parse_now(run(["sdiag"], timeout_s=SHORT_S))
        except Unreachable:
            now_s = None
        end_s, left_s = answers.parse_end(run(command, timeout_s=SHORT_S))
    except (Unreachable, OSError):
        return None  # Slurm's warning signal tells the job to stop
    return left_s if now_s is None or end_s is None else end_s - now_s


def cancel(job_ids: Sequence[str], slurm_conf: str | None = None) -> None:
    """Cancels jobs; it is not an error if they have ended. Raises Unreachable."""
    if job_ids:
        run(["scancel", "--quiet", *job_ids], slurm_conf)


def set_comment(job_id: str, comment: str) -> bool:
    """Gives a job of this user a comment; returns whether Slurm took it."""
    try:
        run(["scontrol", "update", f"JobId={job_id}", f"Comment={comment}"])
    except Unreachable:
        return False
    return True


def in_grace(job_id: str, say: Callable[[str], None] = print) -> bool:
    """Returns whether a job of ours that got a SIGTERM is being preempted, with time to end by itself.

    Asks until Slurm answers; tells `say` if it does not answer at once.
    """
    try:
        return answers.in_grace(_until_answered(["scontrol", "show", "job", job_id], say))
    except Unreachable:
        return False


def requeue(job_id: str, restarts: int, say: Callable[[str], None] = print) -> None:
    """Puts this job back into the queue, from inside its start number `restarts`; tries until Slurm answers.

    Slurm may not answer when a job's time is up; until it does, it does not end the job either. Tells `say` of it. Does
    nothing if the job waits or was started again already. Raises Unreachable if Slurm refuses.
    """
    while True:
        started = answers.parse_start(_until_answered(["scontrol", "show", "job", job_id], say))
        if started is not None and started != ("RUNNING", restarts):
            return
        try:
            run(["scontrol", "requeue", job_id])
            return
        except Unreachable as error:
            if answers.refused(str(error)):
                raise
        time.sleep(RETRY_S)


def _until_answered(command: Sequence[str], say: Callable[[str], None]) -> str:
    said = ""
    while True:
        try:
            return run(command)
        except Unreachable as error:
            if answers.refused(str(error)):
                raise
            if not said:
                say(said := f"Slurm does not answer ({error}); asking again until it does")
        time.sleep(RETRY_S)
