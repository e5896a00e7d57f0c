"""What Slurm and the launchers of ranks say in the environment of a process: read in one place, handed on as a record.

Takes an environment; returns a frozen `JobEnvironment`. No other file reads these variables.
"""

from __future__ import annotations

import contextlib
import getpass
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# The rank of this process, by whoever may have launched it, the innermost launcher first.
_RANKS = ("OMPI_COMM_WORLD_RANK", "HOROVOD_RANK", "PMIX_RANK", "SLURM_PROCID")
# What changes Slurm's commands without a word on their command line: a user's habits, and what an allocation leaves.
_OF_SLURM = (
    "SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "SINFO_",
)  # fmt: skip
_KEPT = ("SLURM_CONF", "SLURM_JWT")  # which cluster, and who asks
# What launchers of ranks leave in a job. Outside of one they are the user's own.
_OF_LAUNCHERS = ("PMIX_", "PMI_", "OMPI_", "HOROVOD_", "SUBMITIT_")
# As `python -P`, for the Python that others start: the working directory holds no modules of ours.
SAFE_PATH = {"PYTHONSAFEPATH": "1"}


@dataclass(frozen=True)
class JobEnvironment:
    """This process's job and place in it. Outside of Slurm, `job_id` is None.

    `job_id` is the name that Slurm's commands take, JOB_TASK for a task of an array: the raw SLURM_JOB_ID of an array's
    last task is the name of the whole array. `restarts`: how often Slurm has started the job again. `rank`: 0 if no
    launcher says one. `cpus_per_task`: what Slurm gave each rank. `slurm_conf`: None for a node's own copy, which other
    hosts do not have.
    """

    job_id: str | None = None
    array_task_id: str | None = None
    restarts: int = 0
    rank: int = 0
    cpus_per_task: int | None = None
    slurm_conf: str | None = None

    @property
    def in_job(self) -> bool:
        """Whether this process belongs to a Slurm job."""
        return self.job_id is not None

    @property
    def start(self) -> str:
        """A name for this start of the job, equal on all ranks, another after a requeue."""
        return f"slurm-{self.job_id}.{self.restarts}"


def read(environment: Mapping[str, str] | None = None) -> JobEnvironment:
    """Returns what `environment` says (None: that of this process). What is empty or malformed counts as not said."""
    given = os.environ if environment is None else environment
    ranks = [int(given[name]) for name in _RANKS if given.get(name, "").isdigit()]
    array, task = given.get("SLURM_ARRAY_JOB_ID"), given.get("SLURM_ARRAY_TASK_ID")
    cpus = given.get("SLURM_CPUS_PER_TASK", "")
    conf = given.get("SLURM_CONF", "")
    restarts = given.get("SLURM_RESTART_COUNT", "")
    return JobEnvironment(
        job_id=f"{array}_{task}" if array and task else given.get("SLURM_JOB_ID") or None,
        array_task_id=task if array else None,
        restarts=int(restarts) if restarts.isdigit() else 0,
        rank=ranks[0] if ranks else 0,
        cpus_per_task=int(cpus) if cpus.isdigit() else None,
        slurm_conf=None if "/conf-cache/" in conf else conf or None,
    )


def for_slurm(slurm_conf: str | None, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns the environment of a Slurm command: plain words, and the cluster of `slurm_conf` if given.

    Times are seconds since the epoch, which no time zone changes. Nothing that the user or a job set in `environment`
    (None: that of this process) narrows what the command answers.
    """
    given = os.environ if environment is None else environment
    kept = {key: value for key, value in given.items() if not _changes_slurm(key)}
    plain = {"LC_ALL": "C", "SLURM_TIME_FORMAT": "%s"}
    return kept | plain | ({"SLURM_CONF": slurm_conf} if slurm_conf else {})


def of_submitter(slurm_conf: str | None, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns the environment for sbatch, which is the new job's as well: nothing in it changes what sbatch is told.

    Left out of `environment` (None: that of this process) are the variables of a job that it may be in, or that an
    allocation left, and those that stand for options; `slurm_conf` names the cluster.
    """
    given = os.environ if environment is None else environment
    left_out = _OF_LAUNCHERS if read(given).in_job else ()
    kept = {k: v for k, v in given.items() if not (_changes_slurm(k) or k.startswith(left_out))}
    return kept | ({"SLURM_CONF": slurm_conf} if slurm_conf else {})


def missing_conf(environment: Mapping[str, str]) -> str | None:
    """Returns the slurm.conf that the environment of a Slurm command names, if there is no such file."""
    conf = environment.get("SLURM_CONF")
    return conf if conf and not Path(conf).exists() else None


@contextlib.contextmanager
def safe_path() -> Iterator[None]:
    """Has what is started inside the block look for no modules in the working directory."""
    before = os.environ.copy()
    os.environ.update(SAFE_PATH)
    try:
        yield
    finally:
        for name in SAFE_PATH.keys() - before.keys():
            del os.environ[name]


def submitit_in(folder: str) -> None:
    """Has submitit look for the files of this job in `folder`."""
    os.environ["SUBMITIT_FOLDER"] = folder


def _changes_slurm(name: str) -> bool:
    return name.startswith(_OF_SLURM) and name not in _KEPT


def user_name() -> str:
    """Returns the user's name; the number if the system has no name for it, as in containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
