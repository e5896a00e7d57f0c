"""Intervals and tests beside scipy.stats, which is another implementation of them."""

import numpy as np
import pytest
from scipy import stats

from hpctrain.report.intervals import interval, like_the_best, welch_p


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_the_interval_is_student_s(n):
    values = np.random.default_rng(n).normal(size=n)
    low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert interval(list(values)) == pytest.approx((high - low) / 2)


def test_welch_s_test():
    generator = np.random.default_rng(0)
    a, b = list(generator.normal(0, 1, 4)), list(generator.normal(1, 3, 7))
    assert welch_p(a, b) == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert welch_p([1.0, 1.0], [1.0, 1.0]) == 1.0
    assert welch_p([1.0, 1.0], [2.0, 2.0]) == 0.0
    assert welch_p([1.0], [2.0, 3.0]) is None


def test_holm_s_steps():
    best = [0.90, 0.91, 0.92]
    groups = [best, [0.90, 0.91, 0.915], [0.10, 0.11, 0.12], [0.80], [0.88, 0.90, 0.91]]
    assert like_the_best(groups) == [None, True, False, None, True]
    # p = 0.03 alone is a difference; beside another comparison it is not.
    close = next(d for d in np.linspace(0, 0.1, 1000) if 0.027 < welch_p(best, [v - d for v in best]) < 0.033)
    near = [v - close for v in best]
    assert like_the_best([best, near]) == [None, False]
    assert like_the_best([best, near, best]) == [None, True, True]
    # Beside one that is surely different it is one again: each step down leaves fewer comparisons.
    far = [v - 1 for v in best]
    assert like_the_best([best, near, far]) == [None, False, False]


def test_equal_settings_are_told_apart_in_one_study_of_twenty():
    """The family-wise error: 10 settings of 3 seeds, all alike, 400 times."""
    generator = np.random.default_rng(1)
    wrong = 0
    for _ in range(400):
        groups = [list(g) for g in generator.normal(size=(10, 3))]
        wrong += any(flag is False for flag in like_the_best(groups))
    assert wrong / 400 < 0.09  # 5 %, and four standard errors
