"""Where the values of a setting stand on an axis, and which ticks it has: numbers as they were swept, names in order.

An axis is linear, logarithmic, or one of names, which are evenly spaced. Pure, but for matplotlib's choice of ticks.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hpctrain.report.canvas import tick_text, tick_texts
from hpctrain.report.table import shortened

Scale = Literal["linear", "log", "names"]
FEW = 7  # distinct values up to which each has its tick
WIDE = 10  # a ratio of values from which a linear axis hides the smaller ones
MOST = 6  # ticks of a logarithmic axis
LONG = 18  # letters of a name on an axis


@dataclass(frozen=True)
class Axis:
    """The position of each value, and (position, text) of each tick. Positions are numbers of the axis' own scale."""

    scale: Scale
    places: list[float]
    ticks: list[tuple[float, str]]

    def heights(self) -> tuple[list[float], list[float]]:
        """Returns places and ticks as heights from 0 to 1; 0.5 if there is one place only."""
        low, high = min(self.places), max(self.places)
        change = math.log if self.scale == "log" else float
        span = change(high) - change(low)

        def height(place: float) -> float:
            return (change(place) - change(low)) / span if span else 0.5

        return [height(p) for p in self.places], [height(t) for t, _ in self.ticks]


def axis(values: Sequence[Any], scale: Scale | None = None) -> Axis:
    """Returns the axis of a setting's values; `scale` is that on which they were swept, None if nobody said.

    Values that are not all numbers are names. Numbers come before texts.
    """
    if not all(map(is_number, values)) or not values:
        scale = "names"
    elif scale is None or (scale == "log" and min(values) <= 0):
        scale = likely_scale(values)
    if scale == "names":
        names = sorted({str(v): v for v in values}.items(), key=lambda item: _order(item[1], item[0]))
        place = {name: float(n) for n, (name, _) in enumerate(names)}
        ticks = [(float(n), shortened(_name(v), LONG)) for n, (_, v) in enumerate(names)]
        return Axis(scale, [place[str(v)] for v in values], ticks)
    places = [float(v) for v in values]
    return Axis(scale, places, _ticks(places, scale, all(isinstance(v, int) for v in values)))


def likely_scale(values: Sequence[float]) -> Scale:
    """Returns the scale on which numbers were swept, by their gaps.

    It is logarithmic if their ratios are more alike than their differences. A zero beside such numbers (a weight decay
    of 0, 1e-4, 1e-3) has no place there: then they are names.
    """
    distinct = sorted(set(values))
    positive = [v for v in distinct if v > 0]
    if len(positive) < 2 or distinct[0] < 0:
        return "linear"
    if len(positive) == 2:
        log = positive[1] >= WIDE * positive[0]
    else:
        log = _unevenness([math.log(v) for v in positive]) < _unevenness(positive)
    if not log or len(positive) == len(distinct):
        return "log" if log else "linear"
    return "names" if positive[-1] >= WIDE * positive[0] and len(distinct) <= 2 * FEW else "linear"


def is_number(value: Any) -> bool:
    """Returns whether a value is a finite number (a truth value is not one)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _unevenness(ordered: Sequence[float]) -> float:
    gaps = [b - a for a, b in itertools.pairwise(ordered)]
    return statistics.pstdev(gaps) / statistics.fmean(gaps)


def _order(value: Any, name: str) -> tuple[bool, float, str]:
    return (False, float(value), "") if is_number(value) else (True, 0.0, name)


def _name(value: Any) -> str:
    return tick_text(value) if is_number(value) else str(value)


def _ticks(places: Sequence[float], scale: Scale, whole: bool) -> list[tuple[float, str]]:
    from matplotlib.ticker import MaxNLocator

    distinct = sorted(set(places))
    low, high = distinct[0], distinct[-1]
    if len(distinct) <= FEW:
        at = distinct
    elif scale == "log":
        at = round_numbers(low, high)
    else:
        at = [float(v) for v in MaxNLocator(5, integer=whole).tick_values(low, high) if low <= v <= high]
    texts = tick_texts(at) if scale == "linear" else [tick_text(v) for v in at]
    return list(zip(at, texts, strict=True))


def round_numbers(low: float, high: float) -> list[float]:
    """Returns at most six round numbers between two positive ones, for ticks of a logarithmic axis.

    1, 2, 5, 10, ...; powers of ten alone if these are enough, and each n-th of those if they are too many.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [float(f"{d}e{p}") for p in powers for d in digits if low <= float(f"{d}e{p}") <= high]
        if len(found) <= MOST:
            break
    else:
        found = found[:: math.ceil(len(found) / MOST)]
    if len(found) >= 2:
        return found
    from matplotlib.ticker import MaxNLocator

    return [float(v) for v in MaxNLocator(4).tick_values(low, high) if low <= v <= high] or [low, high]
