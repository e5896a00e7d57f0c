"""Successive halving without a barrier: its rule by hand, and its promise on many simulated studies."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.sweep.asha import promotable, rung_epochs, share_of_epochs, survivors


def test_rungs():
    assert rung_epochs(1, 3, 27) == [1, 3, 9, 27]
    assert rung_epochs(1, 3, 20) == [1, 3, 9, 20]
    assert rung_epochs(2, 2, 7) == [2, 4, 7]
    assert rung_epochs(5, 3, 5) == [5]


def test_one_of_three_goes_on_as_soon_as_three_are_there():
    results = [{"a": 0.5, "b": 0.9}, {}]
    assert promotable(results, [{"a", "b"}, set()], 3, higher_is_better=True) == []
    results[0]["c"] = 0.7
    assert promotable(results, [{"a", "b", "c"}, set()], 3, higher_is_better=True) == [("b", 1)]
    assert promotable(results, [{"a", "b", "c"}, set()], 3, higher_is_better=False) == [("a", 1)]
    assert promotable(results, [{"a", "b", "c"}, {"b"}], 3, higher_is_better=True) == []


def test_the_lowest_rung_comes_first():
    results = [
        dict(zip("abcdef", (6.0, 5.0, 4.0, 3.0, 2.0, 1.0), strict=True)),
        {"a": 1.0, "x": 2.0, "y": 0.0},
        {},
    ]
    started = [set("abcdefxy"), {"a", "x", "y"}, set()]
    assert promotable(results, started, 3, higher_is_better=True) == [("b", 1), ("x", 2)]


def test_a_failed_run_counts_and_never_goes_on():
    results = [{"a": None, "b": float("nan"), "c": 0.1}, {}]
    assert promotable(results, [{"a", "b", "c"}, set()], 3, higher_is_better=True) == [("c", 1)]
    assert promotable([{"a": None, "b": None, "c": None}, {}], [set("abc"), set()], 3, True) == []


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(2, 4), st.integers(1, 40))
def test_any_order_of_ends_keeps_the_share_and_finds_the_best(seed, slots, reduction, runs):
    """Simulated: slots end in random order. The best of the last rung is at least among the best of the first."""
    generator = random.Random(seed)
    quality = {f"r{n}": generator.random() for n in range(runs)}
    rungs = len(rung_epochs(1, reduction, reduction**2))
    results = [{} for _ in range(rungs)]
    started = [set() for _ in range(rungs)]
    waiting, busy = list(quality), []
    while True:
        while len(busy) < slots:
            found = promotable(results, started, reduction, higher_is_better=True)
            if not found and not waiting:
                break
            run, rung = (waiting.pop(0), 0) if waiting else found[0]
            assert run not in started[rung], "never twice"
            started[rung].add(run)
            busy.append((run, rung))
        if not busy:
            break
        run, rung = busy.pop(generator.randrange(len(busy)))
        results[rung][run] = quality[run]
    for below, above in itertools.pairwise(results):
        assert set(above) <= set(below)
        assert len(above) <= len(below) // reduction + slots, (
            "few go on that a batch would not have let go on"
        )
    # In the end the best of each rung has gone on, wherever there were enough to compare it with.
    for rung in range(rungs - 1):
        if len(results[rung]) >= reduction:
            assert max(results[rung], key=quality.get) in results[rung + 1]


@pytest.mark.parametrize(
    ("runs", "rungs", "reduction", "counts", "share"),
    [
        (27, [1, 3, 9, 27], 3, [27, 9, 3, 1], (27 * 1 + 9 * 2 + 3 * 6 + 1 * 18) / (27 * 27)),
        (4, [1, 3, 9], 3, [4, 1, 0], (4 * 1 + 1 * 2) / 36),
        (5, [10], 3, [5], 1.0),
        (2, [5, 10], 2, [2, 1], (2 * 5 + 1 * 5) / 20),
    ],
)
def test_what_halving_trains(runs, rungs, reduction, counts, share):
    assert survivors(runs, rungs, reduction) == counts
    assert share_of_epochs(runs, rungs, reduction) == pytest.approx(share)
