"""`hpctrain scale`: measure how a job scales over GPUs; `--calibrate`: measure what `hpctrain forecast` needs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence

from hpctrain.commands.flags import Parser
from hpctrain.commands.say import warn_of_others
from hpctrain.config.settings import Config
from hpctrain.launch.estimate import hours_shown
from hpctrain.scaling.plan import ScalingConfig
from hpctrain.scaling.start import CalibrationStart, StudyStart, calibrate, load, measure

ABOUT = """Measures one experiment on several counts of GPUs:
  hpctrain scale RECIPE cluster=NAME scaling=strong scaling.gpus=1,2,4,8 run.study=STUDY
  hpctrain report STUDY
scaling=strong keeps the effective batch, scaling=weak the batch per GPU; scaling.* are the settings
(conf/scaling_base.yaml). Each count is measured scaling.repeats times, in random order, as jobs of its own.
'scaling.knobs={bucket_mb:[1,64],compression:[fp16]}' also tries these settings of the exchange on the most GPUs.
"""


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code. Raises UserError and RunFailed."""
    args = _parser().take(argv)
    config, settings = load(args.words)
    if not args.dry_run:
        warn_of_others(config)
    if args.calibrate:
        calibration, configs = calibrate(config, settings, args.dry_run)
        if args.json:
            print(json.dumps(calibration))
        else:
            _show_calibration(calibration, config, configs)
        return 0
    study = measure(config, settings, args.dry_run)
    if args.json:
        print(json.dumps(study))
    else:
        _show(study, settings, args.dry_run)
    return 0


def _show_calibration(facts: CalibrationStart, config: Config, configs: Sequence[Config]) -> None:
    each = dict.fromkeys(f"{c.resources.nodes} × {c.resources.gpus_per_node}" for c in configs)
    shapes = f"{', '.join(each)}, {len(configs) // len(each)} of each"
    print(
        f"calibration of {config.cluster.name} for {config.model.name}: {len(configs)} jobs (nodes × ranks: {shapes})"
    )
    print(hours_shown(facts["node_hours_max"]))
    if "submitted" in facts:
        jobs = facts["submitted"]
        print(
            f"submitted {len(jobs)} jobs: {', '.join(jobs)}" if jobs else "all are done or under way already"
        )
        print(
            f"follow it: hpctrain status --study {facts['study']}; then hpctrain forecast with the same settings"
        )


def _show(facts: StudyStart, settings: ScalingConfig, dry_run: bool) -> None:
    counts = ", ".join(map(str, settings.gpus))
    if settings.mode == "strong":
        batch = next(iter(facts["batch"].values()))
        kept = f"strong: the effective batch stays {batch:,}, a rank's shrinks"
    else:
        kept = f"weak: the batch per GPU stays, the effective batch grows to {max(facts['batch'].values()):,}"
    print(f"study {facts['study']} on {counts} GPUs ({kept})")
    once = "one at a time, " if settings.one_at_a_time else ""
    warm_up, timed = (count * settings.window_steps for count in (settings.warmup_windows, settings.windows))
    print(f"{facts['jobs']} jobs in random order, {once}each {warm_up} steps of warm-up and {timed} timed")
    print(hours_shown(facts["node_hours_max"]))
    expected = facts["node_seconds_a_point"]
    if expected:
        each = ", ".join(f"{gpus}: {s:.0f}" for gpus, s in expected.items())
        print(
            f"expected node-seconds per run, by GPUs: {each} (median {statistics.median(expected.values()):.0f})"
        )
    if not dry_run:
        jobs = facts["submitted"]
        print(
            f"submitted {len(jobs)} jobs: {jobs[0]} to {jobs[-1]}"
            if jobs
            else "all are done or under way already"
        )
        print(
            f"follow it: hpctrain status --study {facts['study']}; at any time: hpctrain report {facts['study']}"
        )


def _parser() -> Parser:
    parser = Parser("scale", ABOUT, "[RECIPE] SETTINGS")
    parser.add_argument(
        "--calibrate", action="store_true",
        help="measure what hpctrain forecast needs: one rank, a node's ranks, and two nodes",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="show the jobs and what they cost; start nothing"
    )
    parser.add_json()
    parser.add_run_place(as_settings=True)
    return parser
