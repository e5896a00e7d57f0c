"""`hpctrain forecast`, once `predict`: step time, throughput, efficiency on counts of GPUs that were not measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from hpctrain.commands.flags import Parser
from hpctrain.scaling import calibration as calibrations
from hpctrain.scaling import forecast
from hpctrain.scaling.laws import WORTH
from hpctrain.scaling.predict import Predicted
from hpctrain.scaling.start import load

ABOUT = """  hpctrain forecast RECIPE cluster=NAME scaling=weak scaling.gpus=1..1024
Needs a calibration: hpctrain scale --calibrate with the same settings. cluster.link_gbit_per_s=R: as if the
links between nodes had another rate than when they were calibrated.
"""


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code. Raises UserError."""
    args = _parser().take(argv)
    config, settings = load(args.words)
    calibration = calibrations.needed(
        config, settings, " ".join(w for w in args.words if not w.startswith("scaling"))
    )
    predicted = calibrations.curve(config, settings, calibration)
    knobs = forecast.other_settings(config, settings, calibration) if args.knobs else []
    if args.plot:
        forecast.draw(predicted, Path(args.plot))
    if args.json:
        facts = forecast.facts(calibration, calibrations.exchange_of(config), predicted)
        print(json.dumps(facts | {"knobs": knobs}))
        return 0
    _show(predicted)
    for knob in knobs:
        print(f"{knob['setting']:32} {1e3 * knob['step_s']:10.1f} ms per step {knob['change']:+.1%}")
    return 0


def _show(curve: Sequence[Predicted]) -> None:
    heads = ("GPUs", "nodes", "batch", "ms per step", "samples/s", "efficiency", "exposed", "stragglers")
    lines = [
        (
            str(p.gpus), str(p.nodes), f"{p.batch:,}",
            f"{1e3 * p.step.total_s:,.4g}{_range(p.low_s, p.high_s, '{:,.4g}', 1e3)}", f"{p.samples_per_s:,.0f}",
            f"{p.efficiency:.0%}{_range(p.efficiency_low, p.efficiency_high, '{:.0%}')}",
            f"{p.step.exposed_s / p.step.total_s:.0%}", f"{p.step.straggler_s / p.step.total_s:.0%}",
        )
        for p in curve
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    for line in (heads, *lines):
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)))
    most = forecast.advice(curve)
    print(
        f"a prediction, not a measurement; efficiency stays at {WORTH:.0%} or more up to {most} GPUs"
        if most else f"a prediction, not a measurement; no count reaches an efficiency of {WORTH:.0%}"
    )  # fmt: skip


def _range(low: float | None, high: float | None, form: str, factor: float = 1.0) -> str:
    """Returns a 95 % interval as text; nothing if there is none."""
    if low is None or high is None:
        return ""
    return f" ({form.format(factor * low)} to {form.format(factor * high)})"


def _parser() -> Parser:
    parser = Parser("forecast", ABOUT, "[RECIPE] SETTINGS")
    parser.add_argument(
        "--knobs", action="store_true", help="what other settings of the exchange would do on the most GPUs"
    )
    parser.add_argument("--plot", metavar="FILE", help="throughput and efficiency as a PNG")
    parser.add_json()
    parser.add_run_place(as_settings=True)
    return parser
