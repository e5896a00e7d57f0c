"""Confidence intervals of means over seeds, and which settings are statistically indistinguishable from the best.

Pure. Intervals use Student's t. Comparisons with the best use Games and Howell's test: an error of 5 % over all pairs.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence

LEVEL = 0.95
# By simulation (test_intervals.py) the test errs up to a fifth too often for many groups of few values: made up here.
LEVEL_OF_PAIRS = 0.957


def interval(values: Sequence[float]) -> float | None:
    """Returns half the width of the mean's 95 % confidence interval; None for fewer than two values."""
    if len(values) < 2:
        return None
    return student_t(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def student_t(freedom: float, comparisons: int = 1) -> float:
    """Returns half the width, in standard errors, of a 95 % interval (Student's t, `freedom` degrees of freedom).

    Of so many `comparisons` the intervals hold all their values at once in at least 95 % (Bonferroni's correction).
    """
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - (1 - LEVEL) / 2 / comparisons))


def half_of_sum(parts: Sequence[tuple[float, Sequence[float]]], comparisons: int = 1) -> float | None:
    """Returns half the width of the 95 % interval of Σ factor × mean of independent groups of values.

    `parts` are (factor, values). Each group has its own variance; degrees of freedom by Welch (1947) and Satterthwaite
    (1946). None if a group has fewer than two values. By simulation (test_laws.py) it holds the truth in 93 to 97 %
    with three values each, and in up to 98 % with two.
    """
    if min(len(values) for _, values in parts) < 2:
        return None
    variance, freedom = _welch(parts)
    return student_t(freedom, comparisons) * math.sqrt(variance) if variance else 0.0


def _welch(parts: Sequence[tuple[float, Sequence[float]]]) -> tuple[float, float]:
    """Returns the variance of Σ factor × mean, and its degrees of freedom (infinite without any variance)."""
    each = [(factor**2 * statistics.variance(v) / len(v), len(v) - 1) for factor, v in parts]
    whole = math.fsum(variance for variance, _ in each)
    if whole == 0:
        return 0.0, math.inf
    return whole, 1 / math.fsum((variance / whole) ** 2 / freedom for variance, freedom in each)


def apart(a: Sequence[float], b: Sequence[float], groups: int) -> bool | None:
    """Returns whether two of `groups` groups have different means, with an error of 5 % over all pairs of groups.

    Games and Howell's test (1976): Welch's statistic beside the studentised range. It holds for the best against all
    others too, although the best was chosen by looking, and whatever the variances. None if a group has fewer than two
    values, or neither has any spread: then nothing says how far means scatter.
    """
    if min(len(a), len(b)) < 2:
        return None
    variance, freedom = _welch([(1.0, a), (-1.0, b)])
    if variance == 0:
        return None
    statistic = math.sqrt(2 / variance) * abs(statistics.fmean(a) - statistics.fmean(b))
    return statistic > _studentised_range(groups, min(int(freedom), 1000))


@functools.cache
def _studentised_range(groups: int, freedom: int) -> float:
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(LEVEL_OF_PAIRS, groups, freedom))


def like_the_best(groups: Sequence[Sequence[float]]) -> list[bool | None]:
    """Returns for each group whether it cannot be told from the first, which has the best mean of them all.

    None for the first group itself, and where nobody can say (`apart`).
    """
    many = sum(len(group) > 1 for group in groups)
    verdicts = [apart(groups[0], group, many) for group in groups[1:]]
    return [None, *(None if verdict is None else not verdict for verdict in verdicts)][: len(groups)]
