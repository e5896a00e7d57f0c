"""When Slurm ends a job, on the process's own clock."""

from types import SimpleNamespace

import pytest

from hpctrain.scheduler import time_limit
from hpctrain.scheduler.time_limit import TimeLimit


class World:
    """A clock, and a Slurm on which the job ends at `end_s`; None: it does not answer. `takes_s`: each answer."""

    def __init__(self, end_s, takes_s=0.0):
        self.now_s, self.end_s, self.takes_s, self.asked = 5000.0, end_s and 5000.0 + end_s, takes_s, []

    def clock(self):
        return self.now_s

    def ask(self):
        self.asked.append(self.now_s - 5000.0)
        left_s = None if self.end_s is None else self.end_s - self.now_s
        self.now_s += self.takes_s
        return left_s

    def limit(self, margin_s=120.0):
        return TimeLimit(self.ask, margin_s, self.clock)

    def go_on(self, limit, seconds, until_near=True):
        """Look every second; returns when it was time to stop, or None."""
        for _ in range(round(seconds)):
            limit.look()
            if limit.is_near() and until_near:
                return self.now_s - 5000.0
            self.now_s += 1.0
        return None


def test_it_stops_the_margin_before_the_end():
    world = World(3600.0)
    assert world.go_on(world.limit(), 4000) == 3480.0


def test_slurm_is_asked_seldom_and_once_more_before_the_stop():
    world = World(3600.0)
    world.go_on(world.limit(), 4000)
    assert world.asked == [0, 600, 1200, 1800, 2400, 3000, 3470]


def test_a_limit_that_was_extended_is_seen():
    world = World(900.0)
    limit = world.limit()
    assert world.go_on(limit, 700) is None
    world.end_s += 1800.0
    assert world.go_on(limit, 4000) == 900 + 1800 - 120


def test_a_limit_that_was_shortened_is_seen_within_ten_minutes():
    world = World(36000.0)
    limit = world.limit()
    world.go_on(limit, 30)
    world.end_s = 5000.0 + 1800.0
    assert world.go_on(limit, 4000) == 1680.0


@pytest.mark.parametrize("stop_s", [600.0, 7200.0, 1e6])
def test_after_a_stop_slurm_is_asked_before_anything_ends(stop_s):
    """A suspended job's limit is suspended as well."""
    world = World(900.0)
    limit = world.limit()
    world.go_on(limit, 300)
    world.now_s += stop_s
    world.end_s += stop_s
    assert not limit.is_near(), "nobody has looked yet"
    assert world.go_on(limit, 4000) == 900 + stop_s - 120


def test_without_an_answer_the_end_known_stays():
    world = World(900.0)
    limit = world.limit()
    world.go_on(limit, 10)
    world.end_s = None
    assert world.go_on(limit, 4000) == 780.0


def test_without_any_answer_it_asks_every_minute_and_never_stops():
    world = World(None)
    limit = world.limit()
    assert world.go_on(limit, 185) is None
    assert world.asked == [0, 60, 120, 180]
    world.end_s = 5000.0 + 900.0
    assert world.go_on(limit, 4000) == 780.0


def test_a_slow_answer_counts_from_the_question():
    world = World(900.0, takes_s=8.0)
    assert world.go_on(world.limit(), 4000) == pytest.approx(780.0, abs=8.0)


def test_a_question_that_a_stop_cut_off_is_asked_again():
    world = World(900.0)
    limit = world.limit()
    world.go_on(limit, 300)
    world.now_s += 470.0
    end_s, world.end_s, world.takes_s = world.end_s + 3600.0, None, 3600.0
    limit.look()
    assert not limit.is_near()
    world.end_s, world.takes_s = end_s, 0.0
    limit.look()
    assert not limit.is_near()


def test_the_early_answer_says_whether_a_warning_was_for_the_limit():
    world = World(900.0)
    limit = world.limit()
    assert not limit.is_near(60.0), "nothing is known"
    world.go_on(limit, 719)
    assert not limit.is_near(60.0)
    world.go_on(limit, 2)
    assert limit.is_near(60.0)
    assert not limit.is_near()


@pytest.mark.parametrize(("takes_s", "asked_again"), [(60.0, False), (61.0, True)])
def test_no_answer_within_a_minute_is_slurm_s_silence_and_not_a_stop(takes_s, asked_again):
    """Silence is followed by a minute's rest."""
    world = World(None, takes_s)
    limit = world.limit()
    limit.look()
    limit.look()
    assert len(world.asked) == (2 if asked_again else 1)


def test_a_job_without_a_margin_goes_on_to_its_end():
    world = World(900.0)
    assert world.go_on(TimeLimit(world.ask, clock=world.clock), 1000) == 900.0


def test_a_second_before_is_early_enough_to_tell():
    world = World(900.0)
    limit = world.limit(margin_s=0.0)
    limit.look()
    world.now_s += 899.5
    assert limit.is_near(0.5)


class Over(Exception):
    """Ends the look-out, which otherwise lasts as long as its process."""


def test_it_looks_every_second_in_a_thread_of_its_own(monkeypatch):
    threads, world = [], World(900.0)
    monkeypatch.setattr(
        time_limit.threading,
        "Thread",
        lambda **how: threads.append(how) or SimpleNamespace(start=lambda: None),
    )

    def sleep(seconds):
        world.now_s += seconds
        if world.now_s > 5800.0:
            raise Over

    monkeypatch.setattr(time_limit, "time", SimpleNamespace(sleep=sleep))
    world.limit().watch()
    (thread,) = threads
    assert thread["daemon"], "it does not keep the process"
    assert thread["name"] == "time limit"
    with pytest.raises(Over):
        thread["target"]()
    assert world.asked == [0, 600, 770]
