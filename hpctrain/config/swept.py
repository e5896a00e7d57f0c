"""A swept setting: its key and its values, or its bounds. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """A key and all its values, each as text for an override."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Interval:
    """A key and the bounds of its values, both included. `log` is set by `tag(log, interval(a, b))`.

    An integer stands for the numbers that are rounded to it, so both bounds are as likely as their neighbours: without
    `log` all integers are equally likely, with it n has the share log((n + 1/2) / (n - 1/2)), as in Optuna.
    """

    key: str
    low: float
    high: float
    log: bool
    integer: bool

    def draw(self, generator: random.Random) -> str:
        """Returns a random value, as text for an override."""
        rounded = 0.5 if self.integer else 0.0
        low, high = self.low - rounded, self.high + rounded
        if self.log:
            low, high = math.log(low), math.log(high)
        value = generator.uniform(low, high)
        value = math.exp(value) if self.log else value
        return self.written(value)

    def written(self, value: float) -> str:
        """Returns `value`, clipped to the bounds, as text for an override."""
        value = min(max(value, self.low), self.high)
        return str(round(value)) if self.integer else repr(float(f"{value:.6g}"))


Swept = Choice | Interval


def as_json(space: Sequence[Swept]) -> list[dict[str, Any]]:
    """Returns the space as plain values for JSON."""
    return [asdict(s) for s in space]


def from_json(values: Sequence[Mapping[str, Any]]) -> list[Swept]:
    """Returns the space that `as_json` wrote."""
    return [Choice(v["key"], tuple(v["values"])) if "values" in v else Interval(**v) for v in values]
