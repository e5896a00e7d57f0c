"""Confidence intervals of means over seeds, and which settings are statistically indistinguishable from the best.

Pure. Intervals use Student's t. Comparisons with the best use Welch's t-test, with a family-wise error of 5 % by
Holm's step-down procedure (Holm 1979).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

LEVEL = 0.95


def interval(values: Sequence[float]) -> float | None:
    """Returns half the width of the mean's 95 % confidence interval; None for fewer than two values."""
    if len(values) < 2:
        return None
    return student_t(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def student_t(freedom: float) -> float:
    """Returns half the width, in standard errors, of a 95 % interval (Student's t, `freedom` degrees of freedom)."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + LEVEL) / 2))


def welch_p(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Returns the two-sided p-value for equal means, unequal variances; None if a sample has fewer than two values."""
    if min(len(a), len(b)) < 2:
        return None
    from scipy.special import stdtr

    va, vb = statistics.variance(a) / len(a), statistics.variance(b) / len(b)
    difference = statistics.fmean(a) - statistics.fmean(b)
    if va + vb == 0:
        return 1.0 if difference == 0 else 0.0
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    return float(2 * stdtr(freedom, -abs(difference) / math.sqrt(va + vb)))


def like_the_best(groups: Sequence[Sequence[float]]) -> list[bool | None]:
    """Returns for each group whether it is statistically indistinguishable from the first.

    None for the first group itself, and if either has fewer than two values.
    """
    p = [welch_p(groups[0], g) for g in groups[1:]]
    known = sorted((value, n) for n, value in enumerate(p) if value is not None)
    different: set[int] = set()
    for place, (value, n) in enumerate(known):
        if value > (1 - LEVEL) / (len(known) - place):
            break
        different.add(n)
    return [None, *(None if value is None else n not in different for n, value in enumerate(p))][
        : len(groups)
    ]
