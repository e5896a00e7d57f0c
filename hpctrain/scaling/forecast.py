"""Uses of a calibration's predictions: figures for programs, other settings of the exchange, a picture.

Takes predictions; returns figures and curves. No torch, no Slurm. Writes only the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypedDict

from hpctrain.config.settings import Config
from hpctrain.report import scaling_plots
from hpctrain.report.scaling_plots import Series
from hpctrain.scaling import calibration as calibrations
from hpctrain.scaling import comm_settings, predict
from hpctrain.scaling.laws import ask_for
from hpctrain.scaling.network import Exchange
from hpctrain.scaling.plan import ScalingConfig
from hpctrain.scaling.predict import Calibration, Predicted


class OtherSetting(TypedDict):
    """A comm setting, the predicted seconds per step with it, and their relative change."""

    setting: str
    step_s: float
    change: float


def facts(calibration: Calibration, exchange: Exchange, predicted: Sequence[Predicted]) -> dict[str, object]:
    """Returns the whole forecast for programs."""
    links = predict.fit_links(calibration, exchange)
    points = [asdict(p) | {"step_s": p.step.total_s} for p in predicted]
    return {
        "links": asdict(links), "link_gbit_per_s": calibration.link_gbit_per_s,
        "variation": predict.variation(calibration), "points": points, "ask_for": advice(predicted),
    }  # fmt: skip


def advice(predicted: Sequence[Predicted]) -> int | None:
    """Returns the most GPUs that are worth asking for; None if no count is."""
    return ask_for([(p.gpus, p.efficiency) for p in predicted])


def other_settings(config: Config, settings: ScalingConfig, calibration: Calibration) -> list[OtherSetting]:
    """Returns what the model predicts for other settings of the exchange on the most GPUs, the best first."""
    most = replace(settings, gpus=settings.gpus[-1:])

    def step_s(other: Config) -> float:
        return calibrations.curve(other, most, calibration)[0].step.total_s

    now_s = step_s(config)
    times: list[OtherSetting] = [
        {
            "setting": f"comm.{tried.key}={tried.value}",
            "step_s": (other_s := step_s(other)),
            "change": other_s / now_s - 1,
        }
        for tried, other in comm_settings.choices(config, comm_settings.WORTH_TRYING)
    ]
    return sorted(times, key=lambda one: one["step_s"])


def draw(predicted: Sequence[Predicted], path: Path) -> None:
    """Writes throughput and efficiency as a PNG. Raises UserError if it cannot be written."""
    rate, efficiency = curves(predicted)
    first = predicted[0]
    png = scaling_plots.scaling("Predicted scaling", [rate], [efficiency], (first.gpus, first.samples_per_s))
    scaling_plots.write("--plot", path, png)


def curves(predicted: Sequence[Predicted]) -> tuple[Series, Series]:
    """Returns the prediction as two curves of a picture: throughput and efficiency."""
    x = [p.gpus for p in predicted]
    slow = [p.batch / p.high_s for p in predicted if p.high_s]
    fast = [p.batch / p.low_s for p in predicted if p.low_s]
    low = [p.efficiency_low for p in predicted if p.efficiency_low is not None]
    high = [p.efficiency_high for p in predicted if p.efficiency_high is not None]
    rate = Series(
        "predicted", x, [p.samples_per_s for p in predicted], slow, fast, look=scaling_plots.PREDICTED
    )
    efficiency = Series(
        "predicted", x, [p.efficiency for p in predicted], low, high, look=scaling_plots.PREDICTED
    )
    return rate, efficiency
