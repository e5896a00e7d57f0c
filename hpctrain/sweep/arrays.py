"""A study's jobs: how many there are, in which arrays, with which resources, and what they may cost at most.

Pure: takes settings, a run's configuration and Slurm's limits; returns plans and sbatch parameters under submitit's
names. Units are in the names. No I/O, no submitit, no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from hpctrain.config.settings import Config
from hpctrain.scheduler import sbatch
from hpctrain.sweep.settings import SweepConfig

SEARCH_JOBS = 8  # jobs at once, if a search does not set sweep.jobs
RESTARTS = 5  # how often a killed job requeues itself


@dataclass(frozen=True)
class Plan:
    """`arrays` holds the number of tasks of each array, `at_once` the tasks that may run together, `quota` the runs
    per task (None: no limit)."""

    arrays: tuple[int, ...]
    at_once: int
    quota: int | None

    @property
    def jobs(self) -> int:
        """The number of tasks of all arrays."""
        return sum(self.arrays)


def quota_of(settings: SweepConfig) -> int | None:
    """Returns how many runs each job does at most, if there is room for all jobs; None: no limit."""
    return settings.runs_per_job or (None if settings.searches else settings.runs_at_once)


def plan(
    settings: SweepConfig,
    runs: int,
    max_array: int,
    room: int | None = None,
    live: Sequence[int | None] = (),
) -> Plan:
    """Returns the jobs for `runs` runs that are still to do.

    `max_array` is the number of tasks that an array may have (MaxArraySize - 1), `room` the number of jobs that
    the user may still submit, `live` how many of the runs each of the study's jobs in the queue will do (None: no
    limit). If `room` is too small, each job does more runs.
    """
    quota = quota_of(settings)
    if quota is None:  # each job works until the study is done
        wanted = min(settings.jobs or SEARCH_JOBS, math.ceil(runs / settings.runs_at_once))
        tasks = max(0, wanted - len(live))
    else:
        runs = max(0, runs - sum(quota if left is None else left for left in live))
        tasks = math.ceil(runs / quota)
    if room is not None and tasks > room:
        tasks = room
        quota = None if quota is None else math.ceil(runs / max(1, tasks))
    whole, rest = divmod(tasks, max_array)
    arrays = (max_array,) * whole + ((rest,) if rest else ())
    return Plan(arrays, settings.jobs or tasks, quota)


def plan_for(
    settings: SweepConfig,
    config: Config,
    left: int,
    largest: int,
    room: int | None,
    live: Sequence[int | None],
) -> Plan:
    """Returns the plan as `plan` makes it; on this machine without Slurm, one process unless more are asked for."""
    if config.cluster.kind == "local":
        return Plan((1,) * max(0, min(settings.jobs or 1, left) - len(live)), settings.jobs or 1, None)
    return plan(settings, left, largest, room, live)


def job_config(config: Config, settings: SweepConfig) -> Config:
    """Returns one run's configuration with the resources of a whole job: one slot for each run at a time."""
    slots = settings.runs_at_once
    if slots == 1 or config.cluster.kind == "local":
        return config
    gpus = math.ceil(slots / settings.runs_per_gpu) if uses_gpus(config) else slots
    memory = config.resources.mem_gb_per_rank
    resources = replace(
        config.resources,
        gpus_per_node=gpus,
        cpus_per_rank=math.ceil(sbatch.cpus_per_rank(config) * slots / gpus),
        mem_gb_per_rank=memory * slots / gpus if memory else None,
    )
    return replace(config, resources=resources)


def uses_gpus(config: Config) -> bool:
    """Returns whether the run's ranks compute on GPUs of its cluster."""
    return config.resources.device != "cpu" and bool(config.cluster.gpus_per_node)


def array_parameters(
    config: Config,
    settings: SweepConfig,
    study: PurePath,
    python: str,
    comment: str,
    pickle: str,
    tasks: int,
    at_once: int,
) -> dict[str, Any]:
    """Returns what submitit needs to write the script of an array of `tasks` jobs.

    `config` is one run's, `study` the study's own folder (study_dir.StudyDir.folder), `python` the interpreter's
    command, and `pickle` the file in submitit/ that names the function of each task.
    """
    job = job_config(config, settings)
    given = sbatch.sbatch_parameters(job, study, python, comment)
    cpus = given["cpus_per_task"]
    if config.ranks == 1:  # a single task holds the resources of all runs of the job
        cpus *= job.ranks_per_node
        given |= {"ntasks_per_node": 1, "cpus_per_task": cpus}
    requeue = (
        # Only a killed job is requeued, not one that failed or was cancelled.
        f"[ $code -gt 128 ] && {sbatch.NOT_ENDED} && [ ${{SLURM_RESTART_COUNT:-0}} -lt {RESTARTS} ]"
        f" && scontrol requeue {sbatch.JOB}"
    )
    return given | {
        "job_name": f"sweep-{study.parent.name}",
        "setup": sbatch.setup(config, study, pickle=pickle),
        "teardown": ["code=$?", *([requeue] if config.cluster.requeue else []), "exit $code"],
        "srun_args": [
            "--nodes=1", "--ntasks=1", f"--cpus-per-task={cpus}", "--overlap", "--mpi=none", sbatch.EXPORT_ALL,
            *config.cluster.srun_args,
        ],
        "additional_parameters": given["additional_parameters"] | {"array": f"0-{tasks - 1}%{min(tasks, at_once)}"},
    }  # fmt: skip


def node_hours(config: Config, settings: SweepConfig, jobs: int) -> float:
    """Returns the most that the jobs may cost: for each, its share of a node times its time limit."""
    job = job_config(config, settings)
    share = 1.0
    per_node = config.cluster.gpus_per_node if uses_gpus(config) else config.cluster.cpus_per_node
    if per_node and not config.cluster.exclusive:
        taken = job.ranks_per_node * (1 if uses_gpus(config) else sbatch.cpus_per_rank(job))
        share = min(1.0, taken / per_node)
    return jobs * job.resources.nodes * share * sbatch.timeout_min(job) / 60


def wall_bound_s(run_bounds_s: Sequence[float], at_once: int) -> float:
    """Returns what no schedule over `at_once` slots is shorter than, in seconds: the longest run or an even share."""
    return max(max(run_bounds_s, default=0.0), math.fsum(run_bounds_s) / max(1, at_once))
