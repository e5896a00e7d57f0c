"""`hpctrain scale`: plan a scaling study, say what it costs, submit its jobs; `--calibrate`: measure for the model.

Takes a command line; writes runs/<study>/scaling.json and one run directory a measurement, calls sbatch once for
each. Returns at once. Called again, it submits what is missing or failed, and nothing twice.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hpctrain.commands.flags import take
from hpctrain.config import compose
from hpctrain.config.checks import check_whole
from hpctrain.config.settings import Config, from_dict, to_dict
from hpctrain.data.identify import run_id
from hpctrain.errors import UserError
from hpctrain.launch import status
from hpctrain.launch.prepare import prepare
from hpctrain.scaling import calibration, measured
from hpctrain.scaling import plan as scale_plan
from hpctrain.scaling.plan import Planned, ScalingConfig
from hpctrain.scheduler import sbatch
from hpctrain.storage.run_dir import FINAL, locate, refuse_secrets

HELP = """usage: hpctrain scale [--dry-run] [--json] SETTINGS
       hpctrain scale --calibrate [--dry-run] [--json] SETTINGS

Measures one experiment on several counts of GPUs:
  hpctrain scale experiment=NAME cluster=NAME scaling=strong scaling.gpus=1,2,4,8 run.study=STUDY
  hpctrain report STUDY
scaling=strong keeps the effective batch, scaling=weak the batch a GPU; scaling.* are the settings
(conf/scaling_base.yaml). Each count is measured scaling.repeats times, in random order, as jobs of its own.
'scaling.knobs={bucket_mb:[1,64],compression:[fp16]}' also tries these settings of the exchange on the most GPUs.

  --calibrate    measure what hpctrain predict needs: one rank, a node's ranks, and two nodes
  --dry-run      show the jobs and what they cost; start nothing
  --json         one JSON document on stdout
"""


def scale(argv: list[str]) -> int:
    """The command."""
    words, flags, _ = take(argv, "--calibrate", "--dry-run", "--json")
    if "--help" in flags:
        print(HELP, end="")
        return 0
    config, settings = load(words)
    if config.cluster.kind != "slurm":
        raise UserError(
            "cluster", config.cluster.name, "scaling is measured by Slurm's jobs: give a cluster of Slurm's"
        )
    refuse_secrets(config.cluster.environment, config.cluster.setup)
    if "--calibrate" in flags:
        return _calibrate(config, settings, flags)
    planned = scale_plan.plan(config, settings)
    for one in planned:
        check_whole(one.config)
        sbatch.check(one.config)
    return _measure(config, settings, planned, flags)


def load(words: Sequence[str]) -> tuple[Config, ScalingConfig]:
    """The experiment and the study's settings. `scaling.gpus=1,2,4` is one value to us, not Hydra's sweep."""
    key = "scaling.gpus="
    quoted = [f"{key}'{w.removeprefix(key).strip(chr(39))}'" if w.startswith(key) else w for w in words]
    values = compose.compose(quoted)
    return from_dict(values), scale_plan.scaling_config(values["scaling"])


def _measure(config: Config, settings: ScalingConfig, planned: list[Planned], flags: set[str]) -> int:
    study = Path(config.run.root).resolve() / config.run.study
    configs = {one.run_id: one.config for one in planned}
    facts = _costs(settings, list(configs.values()))
    facts |= {
        "study": config.run.study, "mode": settings.mode, "gpus": list(settings.gpus), "batch": _batches(planned),
        "node_seconds_a_point": calibration.expected(config, settings, planned),
    }  # fmt: skip
    if "--dry-run" not in flags:
        _check_here(config)
        left = _left(config, list(configs))
        for name in left:
            prepare(configs[name])
        plan = {
            "mode": settings.mode, "warmup_windows": settings.warmup_windows, "cluster": config.cluster.name,
            "epochs": settings.epochs or config.train.epochs, "train_samples": config.data.train_samples,
            "command": os.environ.get("HPCTRAIN_COMMAND", ""), "config": to_dict(config), "settings": asdict(settings),
            "experiment": f"{config.model.name} on {config.data.name}",
        }  # fmt: skip
        if left or not measured.is_scaling(study):
            measured.write_plan(study, plan, [one.facts() for one in planned])
        facts |= {
            "submitted": _submit([configs[name] for name in left], settings.one_at_a_time),
            "path": str(study),
        }
    if "--json" in flags:
        print(json.dumps(facts))
        return 0
    _say(facts, settings, len(planned), "--dry-run" in flags)
    return 0


def _calibrate(config: Config, settings: ScalingConfig, flags: set[str]) -> int:
    configs = list(scale_plan.calibration(config, settings).values())
    for one in configs:
        check_whole(one)
        sbatch.check(one)
    facts = _costs(settings, configs) | {"study": scale_plan.calibration_study(config)}
    if "--dry-run" not in flags:
        _check_here(config)
        left = set(_left(configs[0], [run_id(one) for one in configs]))
        wanted = [one for one in configs if run_id(one) in left]
        for one in wanted:
            prepare(one)
        facts["submitted"] = _submit(wanted, settings.one_at_a_time)
    if "--json" in flags:
        print(json.dumps(facts))
        return 0
    shapes = ", ".join(f"{c.resources.nodes} × {c.resources.gpus_per_node}" for c in configs)
    print(
        f"calibration of {config.cluster.name} for {config.model.name}: {len(configs)} jobs (nodes × ranks: {shapes})"
    )
    print(f"asks for {facts['node_hours_max']:.2f} node-hours at most")
    if "submitted" in facts:
        jobs = facts["submitted"]
        print(
            f"submitted {len(jobs)} jobs: {', '.join(jobs)}" if jobs else "all are done or under way already"
        )
        print(
            f"follow it: hpctrain status --study {facts['study']}; then hpctrain predict with the same settings"
        )
    return 0


def _check_here(config: Config) -> None:
    """That jobs can be submitted from here, before anything is written. Raises UserError."""
    from hpctrain.scheduler.submit import check_here

    os.umask(0o077)
    check_here(config)


def _costs(settings: ScalingConfig, configs: Sequence[Config]) -> dict[str, Any]:
    """What all jobs may cost at most. Raises UserError over the limit."""
    hours = sum(sbatch.node_hours(one) for one in configs)
    if settings.max_node_hours is not None and hours > settings.max_node_hours:
        raise UserError(
            "scaling.max_node_hours", settings.max_node_hours,
            f"{len(configs)} jobs may take {hours:.2f} node-hours: give fewer counts or repeats, a shorter "
            "scaling.timeout_min or a higher limit",
        )  # fmt: skip
    return {"jobs": len(configs), "node_hours_max": hours}


def _batches(planned: Sequence[Planned]) -> dict[str, int]:
    plain = sorted((one for one in planned if one.knob is None), key=lambda one: one.gpus)
    return {str(one.gpus): one.config.effective_batch for one in plain}


def _left(config: Config, names: Sequence[str]) -> list[str]:
    """The runs that are neither done nor under way, in the order given."""
    known = {row.run: row for row in status.rows(Path(config.run.root), config.run.study)}
    busy = {
        name for name, row in known.items() if row.phase == "done" or (row.phase not in FINAL and row.job_id)
    }
    return [name for name in names if name not in busy]


def _submit(configs: Sequence[Config], one_at_a_time: bool) -> list[str]:
    """One job each, in this order; each begins when the one before has ended, however it ended."""
    from hpctrain.scheduler.submit import submit

    job_ids: list[str] = []
    for config in configs:
        run = locate(config.run.root, config.run.study, run_id(config))
        if one_at_a_time and job_ids:
            after = {"dependency": f"afterany:{job_ids[-1]}"}
            config = replace(
                config, cluster=replace(config.cluster, sbatch=dict(config.cluster.sbatch) | after)
            )
        job_ids.append(submit(run, config))
    return job_ids


def _say(facts: dict[str, Any], settings: ScalingConfig, runs: int, dry: bool) -> None:
    counts = ", ".join(map(str, settings.gpus))
    if settings.mode == "strong":
        batch = next(iter(facts["batch"].values()))
        kept = f"strong: the effective batch stays {batch:,}, a rank's shrinks"
    else:
        kept = f"weak: the batch a GPU stays, the effective batch grows to {max(facts['batch'].values()):,}"
    print(f"study {facts['study']} on {counts} GPUs ({kept})")
    once = "one at a time, " if settings.one_at_a_time else ""
    print(
        f"{runs} jobs in random order, {once}each {settings.warmup_windows * settings.window_steps} steps of warm-up "
        f"and {settings.windows * settings.window_steps} timed"
    )
    print(f"asks for {facts['node_hours_max']:.2f} node-hours at most")
    expected = facts["node_seconds_a_point"]
    if expected:
        each = ", ".join(f"{gpus}: {s:.0f}" for gpus, s in expected.items())
        print(
            f"expected node-seconds a run, by GPUs: {each} (median {statistics.median(expected.values()):.0f})"
        )
    if not dry:
        jobs = facts["submitted"]
        print(
            f"submitted {len(jobs)} jobs: {jobs[0]} to {jobs[-1]}"
            if jobs
            else "all are done or under way already"
        )
        print(
            f"follow it: hpctrain status --study {facts['study']}; at any time: hpctrain report {facts['study']}"
        )
