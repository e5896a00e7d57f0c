"""`hpctrain predict`: step time, throughput and efficiency on counts of GPUs that were not measured.

Takes a command line and a calibration (`hpctrain scale --calibrate`); prints a table, or JSON, or draws a picture.
Reads files only: no torch, no Slurm.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hpctrain.commands.flags import take
from hpctrain.commands.scale import load
from hpctrain.config.settings import CommConfig, Config
from hpctrain.scaling import calibration as calibrations
from hpctrain.scaling import predict
from hpctrain.scaling.laws import WORTH, ask_for
from hpctrain.scaling.network import Exchange
from hpctrain.scaling.plan import ScalingConfig
from hpctrain.scaling.predict import Calibration, Predicted

HELP = """usage: hpctrain predict [--json] [--knobs] [--plot FILE] SETTINGS

  hpctrain predict experiment=NAME cluster=NAME scaling=weak scaling.gpus=1..1024
Needs a calibration: hpctrain scale --calibrate with the same settings. cluster.link_gbit_per_s=R: as if the
links between nodes had another rate than when they were calibrated.

  --knobs        what other settings of the exchange would do on the most GPUs
  --plot FILE    throughput and efficiency as a PNG
  --json         one JSON document on stdout
"""


def predict_command(argv: list[str]) -> int:
    """The command."""
    words, flags, values = take(argv, "--json", "--knobs", plot=None)
    if "--help" in flags:
        print(HELP, end="")
        return 0
    config, settings = load(words)
    calibration = calibrations.needed(
        config, settings, " ".join(w for w in words if not w.startswith("scaling"))
    )
    found = calibrations.curve(config, settings, calibration)
    knobs = _knobs(config, settings, calibration) if "--knobs" in flags else []
    if "plot" in values:
        _draw(found, Path(values["plot"]))
    if "--json" in flags:
        print(json.dumps(_facts(calibration, calibrations.exchange_of(config), found) | {"knobs": knobs}))
        return 0
    _show(found)
    for knob in knobs:
        print(f"{knob['setting']:32} {1e3 * knob['step_s']:10.1f} ms a step {knob['change']:+.1%}")
    return 0


def _facts(calibration: Calibration, exchange: Exchange, found: Sequence[Predicted]) -> dict[str, Any]:
    links = predict.fit_links(calibration, exchange)
    points = [asdict(p) | {"step_s": p.step.total_s} for p in found]
    return {
        "links": asdict(links), "link_gbit_per_s": calibration.link_gbit_per_s,
        "variation": predict.variation(calibration), "points": points, "ask_for": _advice(found),
    }  # fmt: skip


def _advice(found: Sequence[Predicted]) -> int | None:
    return ask_for([(p.gpus, p.efficiency) for p in found])


def _show(found: Sequence[Predicted]) -> None:
    heads = ("GPUs", "nodes", "batch", "ms a step", "samples/s", "efficiency", "exposed", "stragglers")
    lines = [
        (
            str(p.gpus), str(p.nodes), f"{p.batch:,}",
            f"{1e3 * p.step.total_s:,.4g} ({1e3 * p.low_s:,.4g} to {1e3 * p.high_s:,.4g})", f"{p.samples_per_s:,.0f}",
            f"{p.efficiency:.0%} ({p.efficiency_low:.0%} to {p.efficiency_high:.0%})",
            f"{p.step.exposed_s / p.step.total_s:.0%}", f"{p.step.straggler_s / p.step.total_s:.0%}",
        )
        for p in found
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    for line in (heads, *lines):
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)))
    most = _advice(found)
    print(
        f"a prediction, not a measurement; efficiency stays at {WORTH:.0%} or more up to {most} GPUs"
        if most else f"a prediction, not a measurement; no count reaches an efficiency of {WORTH:.0%}"
    )  # fmt: skip


def _knobs(config: Config, settings: ScalingConfig, calibration: Calibration) -> list[dict[str, Any]]:
    """What the model says of other settings of the exchange, on the most GPUs; the best first."""
    most = replace(settings, gpus=settings.gpus[-1:])

    def step_s(other: Config) -> float:
        return calibrations.curve(other, most, calibration)[0].step.total_s

    now_s = step_s(config)
    choices: dict[str, tuple[Any, ...]] = {
        "bucket_mb": (1.0, 4.0, 16.0, 64.0, 256.0),
        "cycle_time_ms": (0.1, 1.0, 5.0),
        "fusion_threshold_mb": (0.0, 4.0, 64.0),
        "compression": ("fp16",),
        "hierarchical": (True,),
    }
    tried: list[tuple[str, Config]] = [
        (f"comm.{key}={value}", replace(config, comm=_with(config.comm, key, value)))
        for key, values in choices.items()
        for value in values
        if getattr(config.comm, key) != value
    ]
    times = [
        {"setting": name, "step_s": (t := step_s(other)), "change": t / now_s - 1} for name, other in tried
    ]
    return sorted(times, key=lambda knob: float(str(knob["step_s"])))


def _with(comm: CommConfig, key: str, value: Any) -> CommConfig:
    changes: dict[str, Any] = {key: value}
    return replace(comm, **changes)


def _draw(found: Sequence[Predicted], path: Path) -> None:
    from hpctrain.report import scaling_plots

    rate, efficiency = curves(found)
    first = found[0]
    png = scaling_plots.scaling([rate], [efficiency], (first.gpus, first.samples_per_s), None)
    scaling_plots.write("--plot", path, png)


def curves(found: Sequence[Predicted]) -> tuple[Any, Any]:
    """The prediction as two curves of a picture: throughput and efficiency."""
    from hpctrain.report.scaling_plots import Series

    x = [p.gpus for p in found]
    rate = Series(
        "predicted", x, [p.samples_per_s for p in found], [p.batch / p.high_s for p in found],
        [p.batch / p.low_s for p in found], measured=False,
    )  # fmt: skip
    efficiency = Series(
        "predicted", x, [p.efficiency for p in found], [p.efficiency_low for p in found],
        [p.efficiency_high for p in found], measured=False,
    )  # fmt: skip
    return rate, efficiency
