"""`hpctrain sweep`: many runs as one study. Looks at everything first, then publishes the runs and submits jobs.

Takes a command line; writes under runs/<study>/.study and calls sbatch a few times. Returns at once: the jobs
find their work in the study's files (worker.py). Whatever interrupts a call, the next one completes the study.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import os
import sys
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpctrain.commands.flags import take
from hpctrain.config import sweep_grammar
from hpctrain.config.settings import Config, from_dict
from hpctrain.config.swept import Interval, Swept
from hpctrain.errors import RunFailed, UserError
from hpctrain.flops.step import StepWork
from hpctrain.launch import estimate
from hpctrain.launch.prepare import check as check_machine
from hpctrain.scheduler import client, sbatch
from hpctrain.scheduler.submit import check_here, slurm_conf
from hpctrain.storage import lock
from hpctrain.sweep import space as spaces
from hpctrain.sweep.arrays import Plan, array_parameters, node_hours, plan, wall_bound_s
from hpctrain.sweep.claims import is_over
from hpctrain.sweep.settings import OF_THE_STUDY, SweepConfig, check, objective, sweep_config
from hpctrain.sweep.settings import count as count_runs
from hpctrain.sweep.study_dir import StudyDir, Trial
from hpctrain.sweep.work_queue import WorkQueue

HELP = """usage: hpctrain sweep [--dry-run] [--json] [--retry PHASE] SETTINGS

Every setting may take several values: optimizer.lr=0.01,0.1 seed=range(3) model=lenet,alexnet
schedule=glob(*), or an interval for random and adaptive search: optimizer.lr=tag(log,interval(1e-4,1)).
sweep=grid|random|tpe|cmaes|asha chooses how; sweep.* are its settings (conf/sweep_base.yaml).
The study is run.study; the same command again completes it, more values extend it.

  --dry-run      show runs, jobs and costs; start nothing
  --json         one JSON document on stdout
  --retry PHASE  do runs again that ended as `failed` or `cancelled`
"""
PATIENCE_S = 60.0  # for another `sweep` of the same study
_OVER_LIMIT = ("MaxSubmit", "submit limit")


@dataclass(frozen=True)
class Request:
    """A command line, understood and checked; nothing has been written."""

    fixed: list[str]
    space: list[Swept]
    settings: SweepConfig
    config: Config
    trials: list[Trial]
    costs: dict[str, Any]


def sweep(argv: list[str]) -> int:
    """The command."""
    argv, flags, values = take(argv, "--dry-run", "--json", retry=("failed", "cancelled"))
    if "--help" in flags:
        print(HELP, end="")
        return 0
    request = understand(argv)
    study = StudyDir(Path(request.config.run.root).resolve() / request.config.run.study)
    _agree(study, request.settings)
    os.umask(0o077)
    if "--dry-run" in flags:
        left = _left(study, request)
        jobs = _plan(request, left, None, 0)
        return _show(study, request, jobs, left, [], flags)
    check_here(request.config)
    study.create()
    with lock.acquire(study.folder, 0, patience_s=PATIENCE_S):
        _agree(study, request.settings)  # somebody else may have begun it meanwhile
        _publish(study, request, values.get("retry"))
        left = _left(study, request)
        jobs, job_ids = (_plan(request, 0, None, 0), []) if left == 0 else _submit(study, request, left)
    return _show(study, request, jobs, left, job_ids, flags)


def understand(argv: Sequence[str]) -> Request:
    """Everything that can be found wrong before anything is written. Raises UserError."""
    fixed, space = sweep_grammar.parse(argv)
    composer = sweep_grammar.Composer(fixed)
    first = tuple(f"{s.key}={s.written(s.low) if isinstance(s, Interval) else s.values[0]}" for s in space)
    values = composer.compose(first)
    settings, config = sweep_config(values["sweep"]), from_dict(values)
    check(settings, space, config)
    if config.cluster.kind == "slurm":
        sbatch.check(config)
    check_machine(config)
    if settings.adaptive:
        from hpctrain.sweep.samplers import check_sampler

        check_sampler(settings)
        _try_bounds(composer, space, first)
    made = (
        [] if settings.adaptive else [spaces.trial(composer, o) for o in spaces.combinations(settings, space)]
    )
    trials = {trial.run_id: trial for trial, _ in reversed(made)}
    costs = _costs([c for _, c in made] or [config] * count_runs(settings, space))
    jobs = _plan_of(settings, config, len(trials) or count_runs(settings, space), 10**9, None, 0)
    costs["node_hours_max"] = (
        node_hours(config, settings, jobs.jobs) if config.cluster.kind == "slurm" else None
    )
    limit = settings.max_node_hours
    if limit is not None and (costs["node_hours_max"] or 0) > limit:
        raise UserError(
            "sweep.max_node_hours", limit, f"{jobs.jobs} jobs may take {costs['node_hours_max']:.2f} node-hours: "
            "give fewer values, a shorter resources.timeout_min or a higher limit"
        )  # fmt: skip
    return Request(fixed, space, settings, config, list(reversed(trials.values())), costs)


def _try_bounds(composer: sweep_grammar.Composer, space: Sequence[Swept], first: tuple[str, ...]) -> None:
    """Each value and bound of each key once: what a sampler will suggest can be made."""
    for place, swept in enumerate(space):
        bounds = isinstance(swept, Interval)
        values = [swept.written(swept.low), swept.written(swept.high)] if bounds else swept.values  # type: ignore[union-attr]
        for value in values:
            spaces.trial(composer, (*first[:place], f"{swept.key}={value}", *first[place + 1 :]))


def _costs(configs: Iterable[Config]) -> dict[str, Any]:
    """FLOPs and lower bounds of all runs to their ends; one look at each different step."""
    known: dict[str, StepWork] = {}
    flops, steps, bounds_s = 0.0, 0, []
    for config in configs:
        optimizer = {k: v for k, v in vars(config.optimizer).items() if k != "lr"}
        key = repr((config.model, config.data.sequence_length, config.train.batch_size, optimizer))
        if key not in known:
            known[key] = estimate.step_work(config)
        facts = estimate.estimate(config, known[key])
        flops, steps = flops + facts["flops_total"], steps + facts["steps"]
        bounds_s.append(facts["lower_bound_s"])
    return {"steps": steps, "flops_total": flops, "bounds_s": None if None in bounds_s else bounds_s}


def _agree(study: StudyDir, settings: SweepConfig) -> None:
    """A study is searched in one way. Raises UserError naming what differs from earlier calls."""
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
    """Add the runs that the study does not have yet; open again what should be done again."""
    known, config = study.trials(), request.config
    part = {
        "time": time.time(), "user": getpass.getuser(), "command": os.environ.get("HPCTRAIN_COMMAND", ""),
        "fixed": request.fixed, "space": spaces.as_json(request.space), "sweep": asdict(request.settings),
        "task": config.task.name, "ranks": config.ranks, "on_slurm": config.cluster.kind == "slurm",
        "signal_s": config.cluster.signal_s, "slurm_conf": slurm_conf(config),
        "trials": [asdict(t) for t in request.trials if t.run_id not in known],
    }  # fmt: skip
    study.add_part(part)
    study.cancel_file.unlink(missing_ok=True)
    for key, facts in study.ended().items():
        run_id = key.rpartition(".")[0]
        if facts["phase"] == retry or not study.run(run_id).config_file.exists():
            study.open_again(run_id)


def _left(study: StudyDir, request: Request) -> int:
    """How many pieces of work nobody has done yet, as far as is known now."""
    agenda = WorkQueue(study, request.settings, objective(request.settings, request.config.task.name)[1])
    agenda.refresh()
    new = sum(t.run_id not in agenda.trials for t in request.trials)
    suggestions = (request.settings.trials or 0) - sum(1 for _ in study.suggestions())
    return agenda.left() + new + (max(0, suggestions) if request.settings.adaptive else 0)


def _plan(request: Request, left: int, room: int | None, live: int) -> Plan:
    largest = 1000
    if request.config.cluster.kind == "slurm":
        with contextlib.suppress(client.Unreachable):  # a plan can be made without the cluster
            largest = client.max_array_size(slurm_conf(request.config)) - 1
    return _plan_of(request.settings, request.config, left, largest, room, live)


def _plan_of(
    settings: SweepConfig, config: Config, left: int, largest: int, room: int | None, live: int
) -> Plan:
    if config.cluster.kind == "local":  # one process here does all, unless more are asked for
        return Plan((1,) * max(0, min(settings.jobs or 1, left) - live), settings.jobs or 1, None)
    return plan(settings, left, largest, room, live)


def _submit(study: StudyDir, request: Request, left: int) -> tuple[Plan, list[str]]:
    """Jobs for what is left, less those that are at it already. Raises RunFailed."""
    settings, config = request.settings, request.config
    if config.cluster.kind == "local":
        jobs = _plan(request, left, None, _live_here(study))
        return jobs, [_submit_one(study, request, 1, jobs) for _ in jobs.arrays]
    comment = _comment(study)
    try:
        conf = slurm_conf(config)
        queue = [j for j in client.queue(conf).values() if j.state in sbatch.WAITING | sbatch.ACTIVE]
    except client.Unreachable as error:
        raise RunFailed("SUBMIT_FAILED", str(error)) from None
    live = sum(job.comment == comment for job in queue)
    room = None if settings.max_submitted is None else max(0, settings.max_submitted - len(queue))
    while True:
        jobs, job_ids = _plan(request, left, room, live), []
        try:
            for tasks in jobs.arrays:
                job_ids.append(_submit_one(study, request, tasks, jobs))
            return jobs, job_ids
        except RunFailed as error:
            done = sum(jobs.arrays[: len(job_ids)])
            if not any(words in error.detail for words in _OVER_LIMIT) or jobs.arrays[len(job_ids)] == 1:
                if done + live == 0:
                    raise
                return Plan(jobs.arrays[: len(job_ids)], jobs.at_once, jobs.quota), job_ids
            # The user's submit limit: fewer jobs, each with more to do.
            with_more = jobs.arrays[len(job_ids)] // 2
            client.cancel(job_ids, conf)
            room = done + with_more


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
            _comment(study),
            pickle,
            tasks,
            jobs.at_once,
        )
        job_id = submit.submit_array(
            study.submitit, request.config, parameters, pickle, work_on, str(study.path), jobs.quota
        )
    study.note_job(job_id)
    return job_id


def _comment(study: StudyDir) -> str:
    """How the study's jobs are known in the queue, also those whose submitter died."""
    return f"hpctrain:study:{hashlib.sha256(str(study.path).encode()).hexdigest()[:16]}"


def _live_here(study: StudyDir) -> int:
    """This machine's processes at work on the study."""
    mine = lock.this_process(0)
    return sum(not is_over({"owner": job["owner"]}, mine) for job in study.jobs() if job["until"] is None)


def _show(
    study: StudyDir, request: Request, jobs: Plan, left: int, job_ids: list[str], flags: set[str]
) -> int:
    """Say what was, or would be, done."""
    costs = dict(request.costs)
    bounds_s = costs.pop("bounds_s")
    runs = len(request.trials) or count_runs(request.settings, request.space)
    at_once = max(1, min(jobs.at_once or 1, jobs.jobs or 1) * request.settings.runs_at_once)
    facts = {
        "study": study.name, "path": str(study.path), "runs": runs, "left": left, "jobs": jobs.jobs,
        "arrays": list(jobs.arrays), "at_once": jobs.at_once, "job_ids": job_ids, **costs,
        "lower_bound_s": wall_bound_s(bounds_s, at_once) if bounds_s else None,
    }  # fmt: skip
    if "--json" in flags:
        print(json.dumps(facts))
        return 0
    print(f"study {study.name}: {runs:,} runs, of which {max(0, runs - left):,} are done already")
    most = "at most " if request.settings.pruner != "none" else ""
    bound = (
        f"at least {facts['lower_bound_s'] / 60:.1f} min on these devices"
        if facts["lower_bound_s"] else "no lower bound on the time: the device's peak is not known"
    )  # fmt: skip
    print(f"{most}{costs['steps']:,} steps, {costs['flops_total']:.3g} FLOPs; {bound}")
    if costs["node_hours_max"] is not None:
        print(f"asks for {costs['node_hours_max']:.2f} node-hours at most")
    each = "each works until all is done" if jobs.quota is None else f"{_many(jobs.quota, 'run')} each"
    what = f"{_many(jobs.jobs, 'job')} in {_many(len(jobs.arrays), 'array')}, {each}, {jobs.at_once} at once"
    if "--dry-run" in flags:
        print(f"would submit {what}")
    elif job_ids:
        print(f"submitted {what}: {', '.join(job_ids)}")
        print(f"follow it: hpctrain status --study {study.name}; at any time: hpctrain report {study.name}")
    elif left:
        print("its jobs are in the queue already; nothing was submitted")
    else:
        print(f"nothing is left to do: hpctrain report {study.name}")
    return 0


def _many(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
