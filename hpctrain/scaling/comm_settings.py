"""Settings of the exchange as a study's second axis: each value by itself, on the study's most GPUs.

Pure: takes configurations and measured repeats, gives configurations, effects with 95 % intervals, and the text of
a preset that has the best of them. No I/O, no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import yaml

from hpctrain.config.settings import CommConfig, Config, TrainConfig, validate
from hpctrain.errors import UserError, nearest
from hpctrain.scaling.laws import Point, Value, ratio

COMM = ("bucket_mb", "fusion_threshold_mb", "cycle_time_ms", "hierarchical", "compression")
KNOBS = (*COMM, "accumulate")


@dataclass(frozen=True)
class Effect:
    """A setting's samples a second against the study's own, less one: 0.1 is a tenth more."""

    key: str
    value: Any
    repeats: int
    change: Value
    predicted: float | None = None

    @property
    def name(self) -> str:
        return f"{'train' if self.key == 'accumulate' else 'comm'}.{self.key}={word(self.value)}"

    @property
    def matters(self) -> bool:
        """The interval leaves no change out."""
        return self.change.half is not None and abs(self.change.mean) > self.change.half


def word(value: Any) -> str:
    """As it is given on a command line."""
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def changed(config: Config, key: str, value: Any) -> Config:
    """The same run with another value of one knob. Raises UserError."""
    if key not in KNOBS:
        raise UserError("scaling.knobs", key, f"must be of {', '.join(KNOBS)}", nearest(key, KNOBS))
    if key == "accumulate":
        return replace(
            config, train=validate(TrainConfig, asdict(config.train) | {key: value}, "scaling.knobs.")
        )
    return replace(config, comm=validate(CommConfig, asdict(config.comm) | {key: value}, "scaling.knobs."))


def choices(config: Config, knobs: Mapping[str, Any]) -> list[tuple[str, Any, Config]]:
    """(key, value, configuration) of every value that is not the run's own already. Raises UserError."""
    found = []
    for key, given in knobs.items():
        values = given if isinstance(given, list | tuple) else [given]
        for value in values:
            other = changed(config, key, value)
            if other != config:
                found.append((key, value, other))
    return found


def effects(
    base: Point | None, others: Sequence[tuple[str, Any, Point]], predicted: Mapping[str, float]
) -> list[Effect]:
    """The strongest first; what has no result is left out. `predicted`: the model's change, by name."""
    if base is None or not base.repeats:
        return []
    rates = [r.samples_per_s for r in base.repeats]
    found = []
    for key, value, point in others:
        if point.repeats:
            gain = ratio([r.samples_per_s for r in point.repeats], rates)
            effect = Effect(key, value, len(point.repeats), Value(gain.mean - 1, gain.half))
            found.append(replace(effect, predicted=predicted.get(effect.name)))
    return sorted(found, key=lambda effect: -effect.change.mean)


def best(found: Sequence[Effect]) -> dict[str, Any]:
    """The values of comm that are faster beyond doubt, one a key; the batch is not the cluster's affair."""
    chosen: dict[str, Any] = {}
    for effect in found:  # the strongest first
        if effect.key in COMM and effect.matters and effect.change.mean > 0:
            chosen.setdefault(effect.key, effect.value)
    return chosen


def finding(found: Sequence[Effect], gpus: int) -> list[str]:
    """In words: which knob matters."""
    if not found:
        return []
    if all(effect.change.half is None for effect in found):
        return ["One repeat each: which setting of the exchange matters cannot be said."]
    strong = sorted((e for e in found if e.matters), key=lambda e: -abs(e.change.mean))
    if not strong:
        return [
            f"No setting of the exchange that was tried matters on {gpus} GPUs: all are within the noise."
        ]
    said = ", ".join(f"{e.name} {percent(e.change)}" for e in strong)
    rest = sorted({e.key for e in found} - {e.key for e in strong})
    text = f"What matters of the exchange on {gpus} GPUs: {said} (samples/s)."
    return [text + (f" Within the noise: {', '.join(rest)}." if rest else "")]


def percent(value: Value) -> str:
    half = "" if value.half is None else f" ± {100 * value.half:.2g}"
    return f"{100 * value.mean:+.1f}{half} %"


def with_comm(preset: str, comm: Mapping[str, Any], source: str) -> str:
    """The text of a cluster's preset with these settings of comm in place of its former ones."""
    rest = re.sub(r"(?m)^comm:.*\n(?:[ \t]+.*\n?)*", "", preset if preset.endswith("\n") else preset + "\n")
    lines = yaml.safe_dump(dict(comm), sort_keys=False).splitlines()
    return rest + f"comm:  # {source}\n" + "".join(f"  {line}\n" for line in lines)
