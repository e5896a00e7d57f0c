"""The interval between checkpoints against Young's formula, and beside what it is to make least."""

import pytest

from hpctrain.checkpoints.interval import young_daly_s


def test_youngs_example():
    # Young 1974: the square root of twice the cost times the mean time between failures.
    assert young_daly_s(2.0, 10_000.0) == 200
    assert young_daly_s(50.0, 1e6) == 10_000


def test_saving_stays_below_a_tenth_of_the_time():
    assert young_daly_s(60.0, 600.0) == 600
    assert young_daly_s(1.0, 50.0) == 10


@pytest.mark.parametrize("factor", [0.8, 0.9, 1.1, 1.25])
def test_no_other_interval_loses_less(factor):
    """To first order, an interval t loses save/t for saving and t/(2 mtbf) for work that is done again."""
    save_s, mtbf_s = 3.0, 86_400.0

    def lost(t):
        return save_s / t + t / 2 / mtbf_s

    assert lost(young_daly_s(save_s, mtbf_s)) < lost(factor * young_daly_s(save_s, mtbf_s))
