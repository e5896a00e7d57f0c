"""The leaderboard of a study: what is compared with what, and what it cost."""

import pytest

from hpctrain.sweep.leaderboard import costs, rank
from hpctrain.sweep.results import Result


def result(value, phase="done", epochs=4.0, **params):
    name = "-".join(map(str, params.values()))
    return Result(name, params, (), (), phase, None, None, value, epochs, [(epochs, value)], 2, 1800.0, 1e15)


def test_seeds_are_one_setting():
    rows = [
        result(v, lr=lr, seed=s) for lr, vs in ((1, (0.9, 0.91)), (2, (0.5, 0.51))) for s, v in enumerate(vs)
    ]
    best, other = rank(rows, higher_is_better=True)
    assert (best.params, best.mean) == ({"lr": 1}, pytest.approx(0.905))
    assert best.half_width == pytest.approx(12.706 * 0.005, rel=1e-3)
    assert other.like_best is False
    assert [s.params["lr"] for s in rank(rows, higher_is_better=False)] == [2, 1]


def test_what_was_stopped_early_is_not_compared():
    rows = [result(0.7, lr=1), result(0.9, "paused", 1.0, lr=2), result(0.8, lr=3)]
    assert [s.params["lr"] for s in rank(rows, higher_is_better=True)] == [3, 1, 2]


def test_costs_by_what_became_of_the_runs():
    found = costs([result(0.5, lr=1), result(None, "failed", lr=2), result(0.1, "paused", lr=3)])
    assert found["hours"] == pytest.approx(3.0)
    assert (found["failed_hours"], found["pruned_hours"]) == (pytest.approx(1.0), pytest.approx(1.0))
    assert found["exaflops"] == pytest.approx(3e-3)
