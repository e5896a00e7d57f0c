"""Waiting that leaves out the time for which a process is stopped."""

import time

import pytest

from hpctrain.patience import Patience


class FakeClock:
    now_s = 1000.0

    def __call__(self):
        return self.now_s


def looks(patience, clock, gaps):
    """What each look says, after each of the gaps."""
    said = []
    for gap_s in gaps:
        clock.now_s += gap_s
        said.append(patience.is_over())
    return said


def test_it_is_over_after_the_limit_and_not_before():
    clock = FakeClock()
    assert looks(Patience(5.0, 1.0, clock), clock, [1.0] * 6) == [False] * 4 + [True] * 2


def test_looks_may_come_at_any_rate_up_to_two_ticks():
    for gap_s in (0.25, 0.5, 1.0, 2.0):
        clock = FakeClock()
        said = looks(Patience(8.0, 1.0, clock), clock, [gap_s] * round(8 / gap_s))
        assert (said[-1], any(said[:-1])) == (True, False), gap_s


@pytest.mark.parametrize("stop_s", [3.0, 3600.0, 1e7])
def test_a_stop_of_any_length_counts_as_two_ticks(stop_s):
    clock = FakeClock()
    assert looks(Patience(6.0, 1.0, clock), clock, [1.0, stop_s, 1.0, 1.0, 1.0]) == [False] * 4 + [True]


def test_a_stop_is_whatever_is_longer_than_two_ticks():
    clock = FakeClock()
    assert looks(Patience(20.0, 4.0, clock), clock, [8.0, 3600.0, 4.0]) == [False, False, True]
    clock = FakeClock()
    assert looks(Patience(4.0, clock=clock), clock, [3600.0, 3600.0]) == [False, True], "a tick is a second"


def test_a_stop_alone_does_not_end_it():
    clock = FakeClock()
    assert looks(Patience(8.0, 0.8, clock), clock, [3600.0]) == [False]


def test_many_stops_count_as_two_ticks_each():
    """A rank that really hangs is ended even while the scheduler suspends its job again and again."""
    clock = FakeClock()
    said = looks(Patience(600.0, 1.0, clock), clock, ([30.0] + [1.0] * 29) * 20)
    assert (said[-1], said[300]) == (True, False)


def test_no_patience_is_over_at_the_first_look():
    assert Patience(0.0).is_over()


def test_the_clock_of_this_machine_is_the_default():
    patience = Patience(0.05, 0.05)
    assert not patience.is_over()
    time.sleep(0.06)
    assert patience.is_over()
