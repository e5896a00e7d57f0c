"""Starts a sweep, or completes it: publishes its runs in the study's folder, then submits jobs that do them.

Takes a request; writes under runs/<study>/.study and calls sbatch a few times. Returns at once: the jobs find their
work in the study's files (sweep/worker.py). Whatever interrupts a call, the next one completes the study.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypedDict

from hpctrain.config.swept import as_json
from hpctrain.errors import RunFailed, UserError
from hpctrain.job_environment import user_name
from hpctrain.launch.prepare import with_places
from hpctrain.scheduler import answers, client, sbatch
from hpctrain.scheduler.submit import check_here, slurm_conf
from hpctrain.storage import lock
from hpctrain.storage.folders import absolute, check_root
from hpctrain.storage.run_state import Reason
from hpctrain.sweep import living
from hpctrain.sweep.arrays import Plan, array_parameters, plan_for, wall_bound_s
from hpctrain.sweep.asha import rung_epochs, share_of_epochs
from hpctrain.sweep.request import Request
from hpctrain.sweep.settings import OF_THE_STUDY, SweepConfig, objective, sweep_config
from hpctrain.sweep.settings import count as count_runs
from hpctrain.sweep.study_dir import Part, StudyDir, stored
from hpctrain.sweep.work_queue import WorkQueue

PATIENCE_S = 60.0  # for another `sweep` of the same study


class Facts(TypedDict):
    """What `hpctrain sweep --json` prints: runs, jobs (`arrays`: tasks of each array), costs, a bound on the time.

    `steps` and `flops_total` are of all runs to their ends; `expected_share` of them is left with pruning.
    """

    study: str
    path: str
    runs: int
    left: int
    jobs: int
    arrays: list[int]
    at_once: int
    job_ids: list[str]
    steps: int
    expected_share: float
    flops_total: float | None
    node_hours_max: float | None
    lower_bound_s: float | None


@dataclass(frozen=True)
class Started:
    """The jobs that were submitted for `left` pieces of work, or would be; `job_ids` holds the ids of arrays."""

    study: StudyDir
    request: Request
    jobs: Plan
    left: int
    job_ids: list[str]

    @property
    def runs(self) -> int:
        """The number of runs that the request names, counting trials that are not drawn yet."""
        return len(self.request.trials) or count_runs(self.request.settings, self.request.space)

    @property
    def rungs(self) -> list[int]:
        """The epochs at which runs may be stopped, to the last; only the last without pruning."""
        settings, epochs = self.request.settings, self.request.config.train.epochs
        pruned = settings.pruner != "none" and epochs is not None
        return (
            rung_epochs(settings.min_epochs, settings.reduction, epochs)
            if pruned and epochs
            else [epochs or 1]
        )

    def facts(self) -> Facts:
        """Returns everything for programs."""
        costs, jobs, settings = self.request.costs, self.jobs, self.request.settings
        at_once = max(1, min(jobs.at_once or 1, jobs.jobs or 1) * settings.runs_at_once)
        bounded = len(self.rungs) == 1  # runs that may be stopped have no least time
        return {
            "study": self.study.name, "path": str(self.study.path), "runs": self.runs, "left": self.left,
            "jobs": jobs.jobs, "arrays": list(jobs.arrays), "at_once": jobs.at_once, "job_ids": self.job_ids,
            "steps": costs.steps, "expected_share": share_of_epochs(self.runs, self.rungs, settings.reduction),
            "flops_total": costs.flops, "node_hours_max": costs.node_hours_max,
            "lower_bound_s": wall_bound_s(costs.bounds_s, at_once) if bounded and costs.bounds_s else None,
        }  # fmt: skip


def foresee(request: Request) -> Started:
    """Returns what `start` would submit; writes nothing. Raises UserError."""
    study = _study(request)
    left = _left(study, request)
    return Started(study, request, _plan(request, left, None, ()), left, [])


def start(request: Request, retry: str | None) -> Started:
    """Publishes the runs and submits jobs for what is left; does runs that ended in phase `retry` again.

    Raises UserError, and RunFailed if Slurm refuses.
    """
    check_root(request.config.run.root)
    study = _study(request)
    check_here(request.config)
    study.create()
    conf = slurm_conf(request.config)
    unlock = f"hpctrain sweep --unlock {shlex.quote(str(study.path))}"
    with lock.acquire(
        study.folder, 0, lambda job_id: client.has_ended(job_id, conf), PATIENCE_S,
        doing="extending the study", unlock=unlock,
    ):  # fmt: skip
        _agree(study, request.settings)  # another call may have begun the study meanwhile
        _publish(study, request, retry)
        left = _left(study, request)
        jobs, job_ids = (_plan(request, 0, None, ()), []) if left == 0 else _submit(study, request, left)
    return Started(study, request, jobs, left, job_ids)


def _study(request: Request) -> StudyDir:
    study = StudyDir(absolute(request.config.run.root) / request.config.run.study, own=True)
    study.refuse_others()
    _agree(study, request.settings)
    os.umask(0o077)
    return study


def _agree(study: StudyDir, settings: SweepConfig) -> None:
    """Raises UserError, naming what differs, unless the study is searched as by its earlier calls."""
    if not study.exists():
        return
    before = sweep_config(study.parts()[0]["sweep"])
    for name in OF_THE_STUDY:
        was, now = getattr(before, name), getattr(settings, name)
        if was != now:
            raise UserError(
                f"sweep.{name}", now, f"study {study.name} has {was}; another run.study makes a new one"
            )


def _publish(study: StudyDir, request: Request, retry: str | None) -> None:
    """Adds the runs that the study does not have yet; opens again those that are to be done again."""
    known, config = study.trials(), request.config
    part: Part = {
        "path": str(study.path), "comment": study.comment,
        "time": time.time(), "user": user_name(), "command": os.environ.get("HPCTRAIN_COMMAND", ""),
        "fixed": request.fixed, "space": as_json(request.space), "sweep": asdict(request.settings),
        "task": config.task.name, "ranks": config.ranks, "on_slurm": config.cluster.kind == "slurm",
        "signal_s": config.cluster.signal_s, "slurm_conf": slurm_conf(config),
        "trials": [
            stored(replace(t, config=with_places(t.config))) for t in request.trials if t.run_id not in known
        ],
    }  # fmt: skip
    study.add_part(part)
    study.cancel_file.unlink(missing_ok=True)
    for key, ended in study.ended().items():
        run_id = key.rpartition(".")[0]
        if ended["phase"] == retry or not study.run(run_id).config_file.exists():
            study.open_again(run_id)


def _left(study: StudyDir, request: Request) -> int:
    """The number of pieces of work that are not done yet, as far as is known now."""
    work_queue = WorkQueue(study, request.settings, objective(request.settings, request.config.task.name)[1])
    work_queue.refresh()
    new = sum(t.run_id not in work_queue.trials for t in request.trials)
    suggestions = (request.settings.trials or 0) - sum(1 for _ in study.suggestions())
    return work_queue.left() + new + (max(0, suggestions) if request.settings.adaptive else 0)


def _plan(request: Request, left: int, room: int | None, live: Sequence[int | None]) -> Plan:
    largest = 1000
    if request.config.cluster.kind == "slurm":
        with contextlib.suppress(client.Unreachable):  # a plan can be made without the cluster
            largest = client.max_array_size(slurm_conf(request.config)) - 1
    return plan_for(request.settings, request.config, left, largest, room, live)


def _submit(study: StudyDir, request: Request, left: int) -> tuple[Plan, list[str]]:
    """Submits jobs for what is left, less those that work on it already. Raises RunFailed."""
    settings, config = request.settings, request.config
    if config.cluster.kind == "local":
        jobs = _plan(request, left, None, [None] * sum(living.here(study)))
        return jobs, [_submit_one(study, request, 1, jobs) for _ in jobs.arrays]
    try:
        conf = slurm_conf(config)
        queue = {n: j for n, j in client.queue(conf).items() if j.state not in answers.ENDED}
    except client.Unreachable as error:
        raise RunFailed(Reason.SUBMIT_FAILED, str(error)) from None
    _refuse_moved(study, list(queue.values()))
    live = [job.ends for job in living.in_slurm(study, queue)]
    room = None if settings.max_submitted is None else max(0, settings.max_submitted - len(queue))
    while True:
        jobs, job_ids = _plan(request, left, room, live), []
        try:
            for tasks in jobs.arrays:
                job_ids.append(_submit_one(study, request, tasks, jobs))
            return jobs, job_ids
        except RunFailed as error:
            done = sum(jobs.arrays[: len(job_ids)])
            if not answers.over_limit(error.detail) or jobs.arrays[len(job_ids)] == 1:
                if done + len(live) == 0:
                    raise
                return Plan(jobs.arrays[: len(job_ids)], jobs.at_once, jobs.quota), job_ids
            # The user's submit limit: fewer jobs, each with more to do.
            with_more = jobs.arrays[len(job_ids)] // 2
            client.cancel(job_ids, conf)
            room = done + with_more


def _refuse_moved(study: StudyDir, queue: Sequence[answers.Job]) -> None:
    """Raises UserError if jobs look for the study in a folder where it no longer is."""
    for old, comment in study.moved_from().items():
        ids = [job.job_id for job in queue if job.comment == comment]
        if ids:
            raise UserError(
                "run.study", study.name, f"its folder was moved from {old}, where its jobs look for it: move it back, "
                f"or scancel {' '.join(ids)} and give the command again"
            )  # fmt: skip


def _submit_one(study: StudyDir, request: Request, tasks: int, jobs: Plan) -> str:
    from hpctrain.scheduler import submit
    from hpctrain.sweep.worker import work_on

    if request.config.cluster.kind == "local":
        job_id = submit.submit_here(study.submitit, request.config, work_on, str(study.path))
    else:
        python = sbatch.python_command(request.config, sys.executable)
        pickle = f"run-{uuid.uuid4().hex[:8]}.pkl"
        parameters = array_parameters(
            request.config,
            request.settings,
            study.folder,
            python,
            study.comment,
            pickle,
            tasks,
            jobs.at_once,
        )
        job_id = submit.submit_array(
            study.submitit, request.config, parameters, pickle, work_on, str(study.path), jobs.quota
        )
    process = asdict(lock.process(int(job_id))) if request.config.cluster.kind == "local" else None
    study.note_job(job_id, jobs.quota, process)
    return job_id
