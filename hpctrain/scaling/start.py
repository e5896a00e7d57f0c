"""Starts a scaling study or a calibration: plans its runs, checks and counts them, and submits them as jobs.

Takes settings; writes runs/<study>/scaling.json and one run directory per measurement, and calls sbatch once for
each. Returns at once. A second call submits the runs that are missing or failed, and no run twice.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NotRequired, TypedDict

from hpctrain.config import compose
from hpctrain.config.checks import check_whole
from hpctrain.config.load import from_dict, to_dict
from hpctrain.config.settings import Config
from hpctrain.data.derive import derive
from hpctrain.data.identify import run_id
from hpctrain.errors import UserError
from hpctrain.launch import status
from hpctrain.launch.prepare import prepare
from hpctrain.scaling import calibration, measured
from hpctrain.scaling import plan as scale_plan
from hpctrain.scaling.laws import Mode
from hpctrain.scaling.measured import StudyFacts
from hpctrain.scaling.plan import Planned, ScalingConfig
from hpctrain.scheduler import sbatch
from hpctrain.storage.folders import absolute
from hpctrain.storage.run_state import FINAL, Phase
from hpctrain.storage.search import locate
from hpctrain.storage.secrets import refuse_secrets


def load(words: Sequence[str]) -> tuple[Config, ScalingConfig]:
    """Returns the experiment and the study's settings. Raises UserError.

    `scaling.gpus=1,2,4` is one value here, not a sweep of Hydra's.
    """
    key = "scaling.gpus="
    quoted = [f"{key}'{w.removeprefix(key).strip(chr(39))}'" if w.startswith(key) else w for w in words]
    values = derive(compose.compose(quoted))
    return from_dict(values), scale_plan.scaling_config(values["scaling"])


class StudyStart(TypedDict):
    """The facts of a study: batch and expected node-seconds per run by GPU count, and the new jobs if it was begun."""

    jobs: int
    node_hours_max: float
    study: str
    mode: Mode
    gpus: list[int]
    batch: dict[str, int]
    node_seconds_a_point: dict[str, float]
    submitted: NotRequired[list[str]]
    path: NotRequired[str]


class CalibrationStart(TypedDict):
    """The facts of a calibration, and the new jobs if it was begun."""

    jobs: int
    node_hours_max: float
    study: str
    submitted: NotRequired[list[str]]


def measure(config: Config, settings: ScalingConfig, dry_run: bool) -> StudyStart:
    """Plans the study and, unless `dry_run`, submits the runs that are missing; returns the facts for programs.

    Raises UserError before anything is written.
    """
    _check(config)
    planned = scale_plan.plan(config, settings)
    configs = {one.run_id: one.config for one in planned}
    _check_each(list(configs.values()))
    study = absolute(config.run.root) / config.run.study
    facts: StudyStart = {
        "jobs": len(configs), "node_hours_max": _node_hours(settings, list(configs.values())),
        "study": config.run.study, "mode": settings.mode, "gpus": list(settings.gpus), "batch": _batches(planned),
        "node_seconds_a_point": calibration.expected(config, settings),
    }  # fmt: skip
    if dry_run:
        return facts
    _check_here(config)
    left = _left(config, list(configs))
    for name in left:
        prepare(configs[name])
    plan: StudyFacts = {
        "mode": settings.mode, "warmup_windows": settings.warmup_windows, "cluster": config.cluster.name,
        "epochs": settings.epochs or config.train.epochs, "train_samples": config.data.train_samples,
        "command": os.environ.get("HPCTRAIN_COMMAND", ""), "config": to_dict(config), "settings": asdict(settings),
        "experiment": f"{config.model.name} on {config.data.name}",
    }  # fmt: skip
    if left or not measured.is_scaling(study):
        measured.write_plan(study, plan, [one.facts() for one in planned])
    facts["submitted"] = _submit([configs[name] for name in left], settings.one_at_a_time)
    facts["path"] = str(study)
    return facts


def calibrate(
    config: Config, settings: ScalingConfig, dry_run: bool
) -> tuple[CalibrationStart, list[Config]]:
    """Submits the runs that `hpctrain forecast` needs, unless `dry_run`; returns the facts for programs, and the runs.

    Raises UserError before anything is written.
    """
    _check(config)
    configs = [
        one
        for repeat in range(1, settings.repeats + 1)
        for one in scale_plan.calibration(config, settings, repeat).values()
    ]
    _check_each(configs)
    facts: CalibrationStart = {
        "jobs": len(configs),
        "node_hours_max": _node_hours(settings, configs),
        "study": scale_plan.calibration_study(config),
    }
    if not dry_run:
        _check_here(config)
        left = set(_left(configs[0], [run_id(one) for one in configs]))
        wanted = [one for one in configs if run_id(one) in left]
        for one in wanted:
            prepare(one)
        facts["submitted"] = _submit(wanted, settings.one_at_a_time)
    return facts, configs


def _check(config: Config) -> None:
    if config.cluster.kind != "slurm":
        raise UserError(
            "cluster",
            config.cluster.name,
            "scaling is measured by Slurm jobs: give cluster=NAME, one that Slurm runs",
        )
    refuse_secrets(to_dict(config))


def _check_each(configs: Sequence[Config]) -> None:
    for one in configs:
        check_whole(one)
        sbatch.check(one)


def _check_here(config: Config) -> None:
    """Raises UserError if jobs cannot be submitted from here. Call it before anything is written."""
    from hpctrain.scheduler.submit import check_here

    os.umask(0o077)
    check_here(config)


def _node_hours(settings: ScalingConfig, configs: Sequence[Config]) -> float:
    """Returns what all jobs may cost at most. Raises UserError if that is over the limit."""
    hours = sum(sbatch.node_hours(one) for one in configs)
    if settings.max_node_hours is not None and hours > settings.max_node_hours:
        raise UserError(
            "scaling.max_node_hours", settings.max_node_hours,
            f"{len(configs)} jobs may take {hours:.2f} node-hours: give fewer counts or repeats, a shorter "
            "scaling.timeout_min or a higher limit",
        )  # fmt: skip
    return hours


def _batches(planned: Sequence[Planned]) -> dict[str, int]:
    plain = sorted((one for one in planned if one.comm_setting is None), key=lambda one: one.gpus)
    return {str(one.gpus): one.config.effective_batch for one in plain}


def _left(config: Config, names: Sequence[str]) -> list[str]:
    """Returns the runs that are neither done nor under way, in the given order."""
    known = {row.run: row for row in status.rows(Path(config.run.root), config.run.study)}
    busy = {
        name
        for name, row in known.items()
        if row.phase == Phase.DONE or (row.phase not in FINAL and row.job_id)
    }
    return [name for name in names if name not in busy]


def _submit(configs: Sequence[Config], one_at_a_time: bool) -> list[str]:
    """Submits one job per run, in this order. If `one_at_a_time`, each begins when the one before has ended."""
    from hpctrain.launch.standing import right_to_start

    job_ids: list[str] = []
    for config in configs:
        run = locate(config.run.root, config.run.study, run_id(config))
        before = job_ids[-1] if one_at_a_time and job_ids else None
        with right_to_start(run) as standing:  # of two calls at once, the second finds the first one's job
            job_ids.append(standing.submit(config, after=before))
    return job_ids
