"""The order of settings, what is compared with what, and what all of it cost."""

import pytest

from hpctrain.sweep.leaderboard import costs, rank
from hpctrain.sweep.results import Result


def result(value, lr=0.1, seed=0, epochs=10.0, phase="done", **more):
    given = {"ranks": 1, "seconds": 0.0, "flops": 0.0} | more
    return Result(
        run_id=f"{lr}-{seed}", params={"lr": lr, "seed": seed}, overrides=(), fixed=(), phase=phase,
        reason=None, detail=None, value=value, epochs=epochs, curve=[], **given,
    )  # fmt: skip


def lrs(found):
    return [setting.params["lr"] for setting in found]


def test_the_best_mean_over_seeds_comes_first():
    results = [
        result(0.8, 0.1, 0), result(0.6, 0.1, 1), result(0.9, 0.2, 0), result(0.1, 0.2, 1),
        result(0.75, 0.3, 0), result(0.75, 0.3, 1),
    ]  # fmt: skip
    found = rank(results, higher_is_better=True)
    assert lrs(found) == [0.3, 0.1, 0.2]
    assert lrs(rank(results, higher_is_better=False)) == [0.2, 0.1, 0.3]
    second = found[1]
    assert second.params == {"lr": 0.1}
    assert second.mean == pytest.approx(0.7)
    # Student's t(1) = 12.706 times the standard error 0.1.
    assert second.half_width == pytest.approx(12.7062 * 0.1, rel=1e-4)
    assert (second.results, second.best_run, second.epochs) == (results[:2], results[0], 10)


def test_values_of_other_types_are_other_settings():
    assert len(rank([result(1.0, lr="1"), result(2.0, lr=1)], True)) == 2


def test_runs_without_a_value_are_not_compared():
    assert rank([result(None), result(None, seed=1)], True) == []
    (one,) = rank([result(None), result(0.5, seed=1)], True)
    assert (one.mean, one.half_width, len(one.results)) == (0.5, None, 1)


def test_of_a_setting_the_seeds_that_trained_longest_count():
    (one,) = rank([result(0.9, seed=0, epochs=3), result(0.5, seed=1), result(0.7, seed=2)], True)
    assert (one.mean, one.epochs) == (pytest.approx(0.6), 10)
    assert [r.params["seed"] for r in one.results] == [1, 2]


def test_what_was_stopped_early_comes_after_what_trained_longer():
    results = [
        result(0.9, 0.1, epochs=3, phase="paused"), result(0.5, 0.2), result(0.6, 0.3), result(0.8, 0.4, epochs=1),
    ]  # fmt: skip
    found = rank(results, higher_is_better=True)
    assert lrs(found) == [0.3, 0.2, 0.1, 0.4]
    assert lrs(rank(results, higher_is_better=False)) == [0.2, 0.3, 0.1, 0.4]
    # Without pruning fewer epochs are a setting like others.
    assert lrs(rank(results[1:], higher_is_better=True)) == [0.4, 0.3, 0.2]


def seeds(lr, *values, **more):
    return [result(value, lr, seed, **more) for seed, value in enumerate(values)]


def test_settings_that_cannot_be_told_from_the_best_are_marked():
    best, like, worse = (0.90, 0.91, 0.92), (0.90, 0.91, 0.915), (0.10, 0.11, 0.12)
    found = rank([*seeds(0.1, *worse), *seeds(0.2, *best), *seeds(0.3, *like)], True)
    assert [(s.params["lr"], s.like_best) for s in found] == [(0.2, None), (0.3, True), (0.1, False)]


def test_only_what_trained_as_long_is_compared_with_the_best():
    best, short = (0.90, 0.91, 0.92), (0.10, 0.11, 0.12)
    paused = seeds(0.1, *short, epochs=3, phase="paused")
    found = rank([*paused, *seeds(0.2, *best), *seeds(0.3, *short)], True)
    assert [(s.params["lr"], s.like_best) for s in found] == [(0.2, None), (0.3, False), (0.1, None)]
    unpruned = rank([*seeds(0.1, *short, epochs=3), *seeds(0.2, *best)], True)
    assert [s.like_best for s in unpruned] == [None, False]


def test_costs_are_rank_hours_by_end():
    results = [
        result(1.0, seconds=3600, ranks=4, flops=2e18),
        result(None, phase="failed", seconds=1800, ranks=2, flops=1e18),
        result(0.5, phase="paused", seconds=900, ranks=1, flops=0.5e18),
        result(0.5, phase="running", seconds=7200, ranks=1),
        result(0.5, phase="running", seconds=3600, ranks=1),
    ]
    assert costs(results) == {"hours": 8.25, "failed_hours": 1.0, "pruned_hours": 0.25, "exaflops": 3.5}
    assert costs([]) == {"hours": 0.0, "failed_hours": 0.0, "pruned_hours": 0.0, "exaflops": 0.0}
