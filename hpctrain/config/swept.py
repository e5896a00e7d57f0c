"""What is swept: a key and its values, or its bounds. Pure."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """A key and all its values, each as an override writes it."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Interval:
    """A key and the bounds of its values, both included; logarithmic by `tag(log, interval(a, b))`."""

    key: str
    low: float
    high: float
    log: bool
    integer: bool

    def draw(self, generator: random.Random) -> str:
        """Returns a random value, as an override writes it."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = generator.uniform(low, high)
        value = math.exp(value) if self.log else value
        return self.written(value)

    def written(self, value: float) -> str:
        """Returns `value`, moved into the bounds, as an override writes it."""
        value = min(max(value, self.low), self.high)
        return str(round(value)) if self.integer else repr(float(f"{value:.6g}"))


Swept = Choice | Interval
