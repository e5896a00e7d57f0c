"""Intervals and tests beside scipy.stats, which is another implementation of them, and by simulation."""

import numpy as np
import pytest
from scipy import stats

from hpctrain.report.intervals import apart, interval, like_the_best


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_the_interval_is_student_s(n):
    values = np.random.default_rng(n).normal(size=n)
    low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert interval(list(values)) == pytest.approx((high - low) / 2)


def test_two_groups_are_told_apart_as_by_welch_s_test():
    """Of two groups the studentised range is Student's t; whole degrees of freedom make the test stricter."""
    generator = np.random.default_rng(0)
    verdicts = set()
    for _ in range(300):
        a, b = list(generator.normal(0, 1, 4)), list(generator.normal(2, 2, 7))
        p = stats.ttest_ind(a, b, equal_var=False).pvalue
        verdict = apart(a, b, 2)
        assert verdict == (p < 0.05) or 0.02 < p < 0.05
        verdicts.add(verdict)
    assert verdicts == {True, False}


def test_it_is_games_and_howell_s():
    groups = [
        [0.90, 0.91, 0.92, 0.90],
        [0.90, 0.91, 0.915, 0.92],
        [0.10, 0.11, 0.12, 0.12],
        [0.6, 0.1, 0.2, 0.3],
    ]
    found = stats.tukey_hsd(*groups, equal_var=False).pvalue
    for place, group in enumerate(groups[1:], 1):
        assert apart(groups[0], group, len(groups)) == (found[0, place] < 0.05)
    assert like_the_best(groups) == [None, True, False, False]


def test_what_nobody_can_say_is_not_said():
    assert apart([1.0], [2.0, 3.0], 2) is None
    assert apart([1.0, 1.0], [2.0, 2.0], 2) is None
    assert like_the_best([[0.9, 0.9], [0.8, 0.8], [0.1], [0.1, 0.3]]) == [None, None, None, True]
    assert like_the_best([[0.9]]) == [None]
    assert like_the_best([[0.9], [0.8]]) == [None, None]


def wrong_verdicts(settings, seeds, studies, spread):
    """The share of studies of equal settings in which one is called worse than the best."""
    generator = np.random.default_rng(settings + seeds)
    wrong = 0
    for _ in range(studies):
        scales = np.exp(spread * generator.normal(size=(settings, 1)))
        groups = (scales * generator.normal(size=(settings, seeds))).tolist()
        wrong += False in like_the_best(sorted(groups, key=np.mean))
    return wrong / studies


@pytest.mark.parametrize("spread", [0.0, 0.7])
def test_of_equal_settings_none_is_worse(spread):
    assert wrong_verdicts(10, 3, 300, spread) < 0.05 + 4 * (0.05 * 0.95 / 300) ** 0.5


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("spread", [0.0, 0.7])
@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("settings", [2, 9, 27])
def test_the_error_over_a_whole_study_is_at_most_6_percent(settings, seeds, spread):
    assert wrong_verdicts(settings, seeds, 4000, spread) <= 0.06
