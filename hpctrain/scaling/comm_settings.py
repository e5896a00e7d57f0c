"""Comm settings as a study's second axis: each value is tried by itself, on the study's largest GPU count.

Pure: takes configurations and measured repeats; returns configurations, effects with 95 % intervals, and the text
of a preset with the best values. The intervals hold all effects of a study at once: of settings without any effect one
is said to matter in at most 5 % of studies, however many were tried. No I/O, no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import yaml

from hpctrain.config.checks import TUNED_COMM
from hpctrain.config.settings import CommConfig, Config, TrainConfig
from hpctrain.config.validate import validate
from hpctrain.errors import UserError, nearest
from hpctrain.scaling.laws import Point, Value, ratio

CommValue = str | int | float | bool | None  # as in ClusterConfig.comm
KEYS = (*TUNED_COMM, "accumulate")
# The values of each setting of TUNED_COMM that a prediction tries.
WORTH_TRYING: Mapping[str, Sequence[CommValue]] = {
    "bucket_mb": (1.0, 4.0, 16.0, 64.0, 256.0),
    "cycle_time_ms": (0.1, 1.0, 5.0),
    "fusion_threshold_mb": (0.0, 4.0, 64.0),
    "compression": ("fp16",),
    "hierarchical": (True,),
}


class CommSetting(NamedTuple):
    """One setting with a value to try."""

    key: str
    value: CommValue

    @property
    def name(self) -> str:
        """The setting as an override, such as comm.compression=fp16."""
        return f"{'train' if self.key == 'accumulate' else 'comm'}.{self.key}={word(self.value)}"


@dataclass(frozen=True)
class Effect:
    """A setting's samples per second relative to the study's own, minus one: 0.1 means a tenth more.

    The interval of `change` is one of those that hold all of the study's effects at once.
    """

    key: str
    value: CommValue
    repeats: int
    change: Value
    predicted: float | None = None

    @property
    def name(self) -> str:
        """The setting as an override, such as comm.compression=fp16."""
        return CommSetting(self.key, self.value).name

    @property
    def matters(self) -> bool:
        """Whether the interval excludes "no change"."""
        return self.change.half is not None and abs(self.change.mean) > self.change.half


def word(value: CommValue) -> str:
    """Returns a value as it is written on a command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def changed(config: Config, setting: CommSetting) -> Config:
    """Returns the same run with this setting. Raises UserError."""
    key, value = setting
    if key not in KEYS:
        raise UserError("scaling.knobs", key, f"must be one of {', '.join(KEYS)}", nearest(key, KEYS))
    if key == "accumulate":
        return replace(
            config, train=validate(TrainConfig, asdict(config.train) | {key: value}, "scaling.knobs.")
        )
    return replace(config, comm=validate(CommConfig, asdict(config.comm) | {key: value}, "scaling.knobs."))


def choices(config: Config, tried: Mapping[str, Any]) -> list[tuple[CommSetting, Config]]:
    """Returns every setting that the run does not have already, with the run that has it. Raises UserError.

    `tried` holds one value, or a list of them, by key.
    """
    settings = [
        CommSetting(key, value)
        for key, given in tried.items()
        for value in (given if isinstance(given, list | tuple) else [given])
    ]
    others = [(setting, changed(config, setting)) for setting in settings]
    return [(setting, other) for setting, other in others if other != config]


def effects(
    base: Point | None, others: Sequence[tuple[CommSetting, Point]], predicted: Mapping[str, float]
) -> list[Effect]:
    """Returns the effects, strongest first, without settings that have no result yet.

    `predicted` holds the model's change by setting name. As many comparisons are made as settings have two repeats.
    """
    if base is None or not base.repeats:
        return []
    rates = [r.samples_per_s for r in base.repeats]
    comparisons = max(1, sum(len(point.repeats) > 1 for _, point in others))
    measured = []
    for setting, point in others:
        if point.repeats:
            gain = ratio([r.samples_per_s for r in point.repeats], rates, comparisons)
            change = Value(gain.mean - 1, gain.half)
            measured.append(Effect(*setting, len(point.repeats), change, predicted.get(setting.name)))
    return sorted(measured, key=lambda effect: -effect.change.mean)


def best(effects: Sequence[Effect]) -> dict[str, CommValue]:
    """Returns the comm values that are faster beyond the noise, one per key. The batch is left out: it is not a
    property of the cluster."""
    chosen: dict[str, CommValue] = {}
    for effect in effects:  # the strongest first
        if effect.key in TUNED_COMM and effect.matters and effect.change.mean > 0:
            chosen.setdefault(effect.key, effect.value)
    return chosen


def finding(effects: Sequence[Effect], gpus: int) -> list[str]:
    """Returns a sentence that says which settings matter; [] if none was tried."""
    if not effects:
        return []
    known = [e for e in effects if e.change.half is not None]
    if not known:
        return ["A single repeat each does not show which comm setting matters."]
    strong = sorted((e for e in known if e.matters), key=lambda e: -abs(e.change.mean))
    changes = ", ".join(f"{e.name} {percent(e.change)}" for e in strong)
    text = (
        f"The comm settings that matter on {gpus} GPUs: {changes} (samples/s)."
        if strong
        else f"None of the comm settings that were tried matters on {gpus} GPUs: all are within the noise."
    )
    weak = sorted({e.key for e in known} - {e.key for e in strong})
    single = sorted({e.name for e in effects if e.change.half is None})
    if strong and weak:
        text += f" Within the noise: {', '.join(weak)}."
    return [text + (f" Nothing is known of {', '.join(single)}: a single repeat." if single else "")]


def percent(value: Value) -> str:
    """Returns a relative change as text, such as "+3.1 ± 0.4 %"."""
    half = "" if value.half is None else f" ± {100 * value.half:.2g}"
    return f"{100 * value.mean:+.1f}{half} %"


def with_comm(preset: str, comm: Mapping[str, CommValue], source: str) -> str:
    """Returns the text of a cluster's preset with its comm section replaced by these settings."""
    rest = re.sub(r"(?m)^comm:.*\n(?:[ \t]+.*\n?)*", "", preset if preset.endswith("\n") else preset + "\n")
    lines = yaml.safe_dump(dict(comm), sort_keys=False).splitlines()
    return rest + f"comm:  # {source}\n" + "".join(f"  {line}\n" for line in lines)
