"""What one call of `hpctrain sweep` asks for: its checked settings, its runs and their costs.

Takes overrides in the sweep's grammar; checks everything that can be wrong. Writes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from hpctrain.config import sweep_grammar
from hpctrain.config.load import from_dict
from hpctrain.config.settings import Config
from hpctrain.config.swept import Interval, Swept
from hpctrain.data.derive import derive
from hpctrain.errors import Uncounted, UserError
from hpctrain.flops.step import StepWork
from hpctrain.launch import estimate
from hpctrain.launch.prepare import check as check_machine
from hpctrain.scheduler import sbatch
from hpctrain.storage.secrets import refuse_secrets
from hpctrain.sweep import space as spaces
from hpctrain.sweep.arrays import node_hours, plan_for
from hpctrain.sweep.settings import SweepConfig, check, sweep_config
from hpctrain.sweep.settings import count as count_runs
from hpctrain.sweep.study_dir import Trial


@dataclass(frozen=True)
class Costs:
    """What all runs cost if they train to their ends: optimiser steps, FLOPs, the roofline time of each run.

    `bounds_s` is None if the device's peak is unknown. `node_hours_max` is for all jobs; None without Slurm.
    """

    steps: int
    flops: float | None
    bounds_s: list[float] | None
    node_hours_max: float | None = None


@dataclass(frozen=True)
class Request:
    """What is asked for, parsed and checked."""

    fixed: list[str]
    space: list[Swept]
    settings: SweepConfig
    config: Config
    trials: list[Trial]
    costs: Costs


def understand(words: Sequence[str]) -> Request:
    """Returns the request. Raises UserError for everything that can be found wrong before anything is written."""
    refuse_secrets(dict(word.partition("=")[::2] for word in words))
    fixed, space = sweep_grammar.parse(words)
    composer = sweep_grammar.Composer(fixed)
    first = tuple(f"{s.key}={s.written(s.low) if isinstance(s, Interval) else s.values[0]}" for s in space)
    values = derive(composer.compose(first))
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
    different = {trial.run_id: config for trial, config in made}  # random draws may meet
    costs = _costs(list(different.values()) or [config] * count_runs(settings, space))
    jobs = plan_for(settings, config, len(trials) or count_runs(settings, space), 10**9, None, ())
    hours = node_hours(config, settings, jobs.jobs) if config.cluster.kind == "slurm" else None
    limit = settings.max_node_hours
    if hours is not None and limit is not None and hours > limit:
        raise UserError(
            "sweep.max_node_hours", limit, f"{jobs.jobs} jobs may take {hours:.2f} node-hours: "
            "give fewer values, a shorter resources.timeout_min or a higher limit"
        )  # fmt: skip
    costs = replace(costs, node_hours_max=hours)
    return Request(fixed, space, settings, config, list(reversed(trials.values())), costs)


def _try_bounds(composer: sweep_grammar.Composer, space: Sequence[Swept], first: tuple[str, ...]) -> None:
    """Makes a run with each value and each bound of each key, so that a sampler's suggestions will be valid."""
    for place, swept in enumerate(space):
        bounds = isinstance(swept, Interval)
        values = [swept.written(swept.low), swept.written(swept.high)] if bounds else swept.values  # type: ignore[union-attr]
        for value in values:
            spaces.trial(composer, (*first[:place], f"{swept.key}={value}", *first[place + 1 :]))


def _costs(configs: Iterable[Config]) -> Costs:
    """The costs of all runs; counts each different step once."""
    known: dict[str, StepWork | Uncounted] = {}
    flops: list[float | None] = []
    steps = 0
    bounds_s: list[float | None] = []
    for config in configs:
        optimizer = {k: v for k, v in vars(config.optimizer).items() if k != "lr"}
        key = repr((config.model, config.data.sequence_length, config.train.batch_size, optimizer))
        if key not in known:
            try:
                known[key] = estimate.step_work(config)
            except Uncounted as why:
                known[key] = why
        facts = estimate.estimate(config, known[key])
        flops.append(facts["flops_total"])
        steps += facts["steps"]
        bounds_s.append(facts["lower_bound_s"])
    known_s = [bound_s for bound_s in bounds_s if bound_s is not None]
    total = None if None in flops else math.fsum(each for each in flops if each is not None)
    return Costs(steps, total, known_s if len(known_s) == len(bounds_s) else None)
