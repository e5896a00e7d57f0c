"""The swept space as runs: every combination once, draws that repeat, and what a run's settings are."""

import random
from itertools import islice

import pytest

from hpctrain.config.load import to_dict
from hpctrain.config.sweep_grammar import Composer
from hpctrain.config.swept import Choice, Interval
from hpctrain.data.identify import run_id
from hpctrain.errors import UserError
from hpctrain.sweep.settings import SweepConfig
from hpctrain.sweep.space import as_value, combinations, draw, trial

RATES = Choice("optimizer.lr", ("0.1", "1e-2"))
SCHEDULES = Choice("schedule", ("constant", "cosine", "step"))
DECAY = Interval("optimizer.weight_decay", 1e-5, 0.1, log=True, integer=False)


def test_a_grid_is_every_combination_the_last_key_fastest():
    assert list(combinations(SweepConfig(), [RATES, SCHEDULES])) == [
        ("optimizer.lr=0.1", "schedule=constant"),
        ("optimizer.lr=0.1", "schedule=cosine"),
        ("optimizer.lr=0.1", "schedule=step"),
        ("optimizer.lr=1e-2", "schedule=constant"),
        ("optimizer.lr=1e-2", "schedule=cosine"),
        ("optimizer.lr=1e-2", "schedule=step"),
    ]


def drawn(trials, seed=0):
    settings = SweepConfig(sampler="random", trials=trials, seed=seed)
    return list(islice(combinations(settings, [DECAY, SCHEDULES]), 100))


def test_a_draw_depends_on_its_number_and_the_seed_alone():
    ten = drawn(10)
    assert len(ten) == len(set(ten)) == 10
    assert drawn(4) == ten[:4]
    assert not set(drawn(10, seed=1)) & set(ten)
    assert drawn(None) == []


def test_draws_reach_all_of_the_space_and_nothing_else():
    runs = [draw([DECAY, SCHEDULES], random.Random(n)) for n in range(100)]
    assert {schedule for _, schedule in runs} == {"schedule=constant", "schedule=cosine", "schedule=step"}
    keys, values = zip(*(decay.split("=") for decay, _ in runs), strict=True)
    assert set(keys) == {"optimizer.weight_decay"}
    assert all(1e-5 <= float(value) <= 0.1 for value in values)
    assert min(map(float, values)) < 1e-4 < 1e-2 < max(map(float, values))


def test_a_trial_is_the_composed_run_with_its_settings_as_values():
    overrides = (
        "optimizer.lr=1e-2",
        "schedule=cosine",
        "++optimizer.nesterov=true",
        "+cluster.environment.X='a=b'",
    )
    made, config = trial(Composer(["experiment=lenet_digits"]), overrides)
    assert (config.optimizer.lr, config.schedule.name, config.optimizer.nesterov) == (0.01, "cosine", True)
    assert config.cluster.environment["X"] == "a=b"
    assert made.params == {
        "optimizer.lr": 0.01, "schedule": "cosine", "optimizer.nesterov": True, "cluster.environment.X": "a=b",
    }  # fmt: skip
    assert (made.run_id, made.overrides, made.config) == (run_id(config), overrides, to_dict(config))


def test_a_trial_that_cannot_be_is_refused():
    with pytest.raises(UserError, match=r"train\.epochs=-1: must be"):
        trial(Composer(["experiment=lenet_digits"]), ("train.epochs=-1",))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-1.5", -1.5),
        ("1e-3", 0.001),
        ("true", True),
        ("false", False),
        ("null", None),
        ("cosine", "cosine"),
        ("'a b'", "a b"),
        ("[1,2]", "[1,2]"),
        ("None", "None"),
        ("3 apples", "3 apples"),
        ("a.b", "a.b"),
        ("(" * 300, "(" * 300),
    ],
)
def test_values_of_overrides(text, value):
    found = as_value(text)
    assert (type(found), found) == (type(value), value)
