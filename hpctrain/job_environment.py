"""What Slurm and the launchers of ranks say in the environment of a process: read in one place, handed on as a record.

Takes an environment; returns a frozen `JobEnvironment`. No other file reads these variables.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

# The rank of this process, by whoever may have launched it, the innermost launcher first.
_RANKS = ("OMPI_COMM_WORLD_RANK", "HOROVOD_RANK", "PMIX_RANK", "SLURM_PROCID")
# Variables of a job that are not those of a job that it submits.
_OF_A_JOB = ("SLURM_", "SLURMD_", "SRUN_", "PMIX_", "PMI_", "OMPI_", "HOROVOD_", "SUBMITIT_")


@dataclass(frozen=True)
class JobEnvironment:
    """This process's job and place in it. Outside of Slurm, `job_id` is None.

    `restarts`: how often Slurm has started the job again. `rank`: 0 if no launcher says one. `cpus_per_task`: what
    Slurm gave each rank. `end_s`: when the job is killed, in seconds since the epoch (Slurm 23.02 and newer say so).
    """

    job_id: str | None = None
    array_job_id: str | None = None
    array_task_id: str | None = None
    restarts: int = 0
    rank: int = 0
    cpus_per_task: int | None = None
    end_s: float | None = None
    slurm_conf: str | None = None

    @property
    def in_job(self) -> bool:
        """Whether this process belongs to a Slurm job."""
        return self.job_id is not None

    @property
    def queue_id(self) -> str | None:
        """The job's id as squeue shows it: JOB_TASK for a task of an array."""
        return f"{self.array_job_id}_{self.array_task_id}" if self.array_job_id else self.job_id

    @property
    def start(self) -> str:
        """A name for this start of the job, equal on all ranks, another after a requeue."""
        return f"slurm-{self.job_id}.{self.restarts}"


def read(environment: Mapping[str, str] | None = None) -> JobEnvironment:
    """Returns what `environment` says (None: that of this process). What is empty or malformed counts as not said."""
    given = os.environ if environment is None else environment
    ranks = [int(given[name]) for name in _RANKS if given.get(name, "").isdigit()]
    end = given.get("SLURM_JOB_END_TIME", "")
    cpus = given.get("SLURM_CPUS_PER_TASK", "")
    restarts = given.get("SLURM_RESTART_COUNT", "")
    return JobEnvironment(
        job_id=given.get("SLURM_JOB_ID") or None,
        array_job_id=given.get("SLURM_ARRAY_JOB_ID") or None,
        array_task_id=given.get("SLURM_ARRAY_TASK_ID") or None,
        restarts=int(restarts) if restarts.isdigit() else 0,
        rank=ranks[0] if ranks else 0,
        cpus_per_task=int(cpus) if cpus.isdigit() else None,
        end_s=float(end) if end.isdigit() else None,
        slurm_conf=given.get("SLURM_CONF") or None,
    )


def for_slurm(slurm_conf: str | None) -> dict[str, str]:
    """Returns the environment of a Slurm command: plain words and times, and the cluster of `slurm_conf` if given."""
    plain = {"LC_ALL": "C", "SLURM_TIME_FORMAT": "standard"}
    return os.environ | plain | ({"SLURM_CONF": slurm_conf} if slurm_conf else {})


def leave_job(environment: MutableMapping[str, str], slurm_conf: str | None) -> None:
    """Makes `environment` that of a submitter: no variables of a job that it may be in, the cluster of `slurm_conf`."""
    if read(environment).in_job:
        for key in [k for k in environment if k.startswith(_OF_A_JOB)]:
            del environment[key]
    if slurm_conf:
        environment["SLURM_CONF"] = slurm_conf
