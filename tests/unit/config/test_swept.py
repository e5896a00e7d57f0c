"""Values of an interval: where they lie, and how an override writes them."""

import json
import math
import random
from collections import Counter

import pytest
from scipy import stats

from hpctrain.config.swept import Choice, Interval, as_json, from_json


def test_a_space_comes_back_from_json():
    space = [
        Choice("optimizer.lr", ("0.1", "1e-2")),
        Interval("optimizer.weight_decay", 1e-5, 0.1, log=True, integer=False),
        Interval("train.epochs", 1, 5, log=False, integer=True),
    ]
    text = json.dumps(as_json(space))
    assert json.loads(text)[:2] == [
        {"key": "optimizer.lr", "values": ["0.1", "1e-2"]},
        {"key": "optimizer.weight_decay", "low": 1e-5, "high": 0.1, "log": True, "integer": False},
    ]
    assert from_json(json.loads(text)) == space


class At(random.Random):
    """Draws the point at `share` of any interval."""

    def __init__(self, share):
        super().__init__()
        self.share = share

    def uniform(self, a, b):
        return a + self.share * (b - a)


@pytest.mark.parametrize(("share", "value"), [(0, "0.0001"), (0.5, "0.001"), (1, "0.01")])
def test_a_logarithmic_interval_has_its_middle_at_the_geometric_mean(share, value):
    assert Interval("lr", 1e-4, 1e-2, log=True, integer=False).draw(At(share)) == value


@pytest.mark.parametrize(("share", "value"), [(0, "2.0"), (0.25, "3.0"), (1, "6.0")])
def test_a_plain_interval_has_its_middle_at_the_mean(share, value):
    assert Interval("x", 2, 6, log=False, integer=False).draw(At(share)) == value


def test_integers_are_rounded_and_include_both_bounds():
    width = Interval("width", 16, 256, log=True, integer=True)
    assert [width.draw(At(share)) for share in (0, 0.5, 1)] == ["16", "63", "256"]
    assert [width.written(value) for value in (20.4, 20.6)] == ["20", "21"]
    draws = {Interval("n", 1, 3, log=False, integer=True).draw(random.Random(seed)) for seed in range(50)}
    assert draws == {"1", "2", "3"}


def test_what_is_written_lies_within_the_bounds_with_six_digits():
    interval = Interval("x", 0.1, 0.9, log=False, integer=False)
    assert [interval.written(v) for v in (0.0, 1.0, 1 / 3)] == ["0.1", "0.9", "0.333333"]


@pytest.mark.parametrize(
    ("low", "high", "log"), [(1, 3, False), (-2, 7, False), (0, 1, False), (1, 8, True), (4, 40, True)]
)
def test_integers_are_as_likely_as_they_should_be(low, high, log):
    """A chi-square test of 20,000 draws; both bounds had half their chance if draws were merely rounded."""
    interval = Interval("n", low, high, log=log, integer=True)
    generator = random.Random(7)
    seen = Counter(int(interval.draw(generator)) for _ in range(20_000))
    numbers = range(low, high + 1)
    shares = [math.log((n + 0.5) / (n - 0.5)) if log else 1.0 for n in numbers]
    expected = [20_000 * share / sum(shares) for share in shares]
    assert set(seen) <= set(numbers)
    assert stats.chisquare([seen[n] for n in numbers], expected).pvalue > 0.001
