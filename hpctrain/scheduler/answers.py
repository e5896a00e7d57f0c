"""What Slurm says: pure functions that parse the output of its commands.

Takes text, returns jobs and numbers. No I/O. Times are in seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# `squeue --format` and the order of its fields; the command is last, as a path may hold the separator.
SQUEUE_FORMAT = "%i|%T|%r|%j|%k|%o"
SACCT_FORMAT = "JobID,State,ExitCode,JobName,Comment"

# Slurm's job states (squeue's long names) by what they mean for a run. A state in none of these sets means nothing.
PENDING = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"})
WAITING = PENDING | {"CONFIGURING"}
ACTIVE = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STAGE_OUT", "SIGNALING", "RESIZING", "STOPPED"})
LIVING = WAITING | ACTIVE
ENDED = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
     "TIMEOUT"}
)  # fmt: skip

# sbatch's words if the controller may have accepted the job, but its answer is missing.
NO_JOB_ID = "sbatch did not answer with the number of a job"
_NO_ANSWER = re.compile(
    r"(?i)timed out|unable to contact|zero bytes|connect|communication|did not answer|standby"
)
_JOB_ID = re.compile(r"^Submitted batch job (\d+)\b", re.MULTILINE)
_END = re.compile(r"^\s*(\d+|[A-Za-z/]+)\|([\d:-]+|[A-Za-z_/]+)\s*$", re.MULTILINE)
_DURATION = re.compile(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)")
_NOW = re.compile(r"^sdiag output at .*\((\d+)\)$", re.MULTILINE)
_OVER_LIMIT = re.compile(r"MaxSubmit|submit limit")


@dataclass(frozen=True)
class Job:
    """One job as squeue or sacct shows it.

    `command` is the script that sbatch took; "" from sacct. `exit_code` is that of its batch script; None from squeue.
    """

    job_id: str
    state: str
    reason: str = ""
    comment: str = ""
    name: str = ""
    command: str = ""
    exit_code: int | None = None

    @property
    def writes(self) -> bool | None:
        """Whether its processes may write files: False if it waits or has ended, None for an unknown state."""
        if self.state in PENDING | ENDED:
            return False
        return True if self.state in LIVING else None


def current(jobs: Sequence[Job]) -> Job | None:
    """Returns which of a run's jobs, oldest first, stands for it: one on nodes, else the next to start, or the last."""
    for states in (ACTIVE, WAITING):
        for job in jobs:
            if job.state in states:
                return job
    return jobs[-1] if jobs else None


def one_of_each_array(jobs: Iterable[Job]) -> dict[str, Job]:
    """Returns one task of each job array among `jobs`, by the array's id."""
    return {array: job for job in jobs for array, is_task, _ in [job.job_id.partition("_")] if is_task}


def parse_squeue(text: str) -> list[Job]:
    """Returns the jobs in the output of `squeue --noheader --format=SQUEUE_FORMAT`."""
    jobs = []
    for line in text.splitlines():
        fields = line.strip().split("|", 5)
        if len(fields) == 6:
            job_id, state, reason, name, comment, command = fields
            jobs.append(Job(job_id, state, reason, comment, name, command))
    return jobs


def parse_end(text: str) -> tuple[float | None, float | None]:
    """Returns when a job ends, in seconds since the epoch, and the seconds left by the clock of the machine that asks.

    `text` is the output of `squeue --noheader --jobs=ID --format=%e|%L`, among whatever a site prints. None: unknown,
    or no such job.
    """
    said = _END.search(text)
    if said is None:
        return None, None
    return float(said[1]) if said[1].isdigit() else None, parse_duration(said[2])


def parse_duration(text: str) -> float | None:
    """Returns the seconds of a duration, days-hours:minutes:seconds; None for other words, such as UNLIMITED."""
    said = _DURATION.fullmatch(text.strip())
    if said is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in said.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def parse_now(text: str) -> float | None:
    """Returns the time on the controller's clock, in seconds since the epoch, from `sdiag`; None if it is unknown."""
    said = _NOW.search(text)
    return float(said[1]) if said else None


def in_grace(text: str) -> bool:
    """Returns whether `scontrol show job ID` says that the job is being preempted, and has GraceTime to end by itself.

    Slurm counts a job that does so as completed and does not requeue it.
    """
    return "JobState=RUNNING" in text and re.search(r"\bPreemptTime=\d", text) is not None


def parse_start(text: str) -> tuple[str, int] | None:
    """Returns a job's state and its number of restarts, from `scontrol show job ID`; None if there is no such job."""
    state, restarts = re.search(r"\bJobState=(\w+)", text), re.search(r"\bRestarts=(\d+)", text)
    return (state[1], int(restarts[1])) if state and restarts else None


def parse_energy(text: str) -> dict[str, float]:
    """Returns joules by job, from `sacct --noheader --parsable2 --format=JobIDRaw,ConsumedEnergyRaw`.

    A job's own line counts, or else its largest step's; 0, and 2³² − 2 and more, are Slurm's words for "not known".
    """
    own: dict[str, float] = {}
    steps: dict[str, float] = {}
    for line in text.splitlines():
        name, _, given = line.partition("|")
        job_id, _, step = name.partition(".")
        if given.isdigit() and 0 < int(given) < 2**32 - 2:
            place = steps if step else own
            place[job_id] = max(place.get(job_id, 0.0), float(given))
    return steps | own


def parse_sacct(text: str) -> list[Job]:
    """Returns the jobs in the output of `sacct --noheader --parsable2 --format=SACCT_FORMAT`, without steps."""
    jobs = []
    for line in text.splitlines():
        fields = line.split("|", 4)
        if len(fields) == 5 and "." not in fields[0] and fields[1]:
            job_id, state, code, name, comment = fields
            # "CANCELLED by 1000" is CANCELLED.
            jobs.append(Job(job_id, state.split(" ")[0], "", comment, name, exit_code=_exit_code(code)))
    return jobs


def _exit_code(text: str) -> int | None:
    """The code in sacct's CODE:SIGNAL, of which sacct takes 128 off those above 127 (Slurm's src/sacct/print.c).

    A code that a batch script of ours may return is 0, 1, 2, or above 128.
    """
    code = text.partition(":")[0]
    if not code.isdecimal():
        return None
    return int(code) + (128 if 2 < int(code) < 128 else 0)


def refused(said: str) -> bool:
    """Returns whether sbatch's error means that no job was made; False if the controller may have made one."""
    return not _NO_ANSWER.search(said)


def over_limit(said: str) -> bool:
    """Returns whether sbatch's error is about too many jobs at a time."""
    return _OVER_LIMIT.search(said) is not None


def parse_sbatch(text: str) -> str | None:
    """Returns the job's id in the output of `sbatch`, among whatever a site prints; None without one."""
    said = _JOB_ID.search(text)
    return said[1] if said else None


def parse_max_array_size(text: str) -> int:
    """Returns one more than the largest task number of an array, from `scontrol show config`; 1001 if unknown."""
    said = re.search(r"MaxArraySize\s*=\s*(\d+)", text)
    return int(said[1]) if said else 1001
