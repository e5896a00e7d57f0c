"""The sweep grammar, and that composing many runs gives what Hydra gives for each."""

import random

import pytest

from hpctrain.config import compose
from hpctrain.config.sweep_grammar import Composer, parse
from hpctrain.config.swept import Choice, Interval
from hpctrain.errors import UserError


def test_the_whole_grammar():
    words = "lenet_digits train.batch_size=16 optimizer.lr=0.01,0.1 seed=range(3) model=choice(lenet,alexnet)"
    more = "schedule=glob(co*) optimizer.momentum=tag(log,interval(0.1,0.9)) train.epochs=int(interval(1,9))"
    fixed, swept = parse([*words.split(), *more.split()])
    assert fixed == ["experiment=lenet_digits", "train.batch_size=16"]
    assert swept == [
        Choice("optimizer.lr", ("0.01", "0.1")),
        Choice("seed", ("0", "1", "2")),
        Choice("model", ("lenet", "alexnet")),
        Choice("schedule", ("constant", "cosine")),
        Interval("optimizer.momentum", 0.1, 0.9, log=True, integer=False),
        Interval("train.epochs", 1, 9, log=False, integer=True),
    ]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["optimizer.lr=0.2", "seed=3"],
        ["model=mlp", "optimizer.lr=1e-3", "train.clip_norm=null"],
        ["optimizer=adam", "optimizer.betas=[0.8,0.9]"],
        ["data.num_classes=12", "seed=1"],  # the model's number of classes follows it
        ["data.shape=[1,28,28]"],
        ["+cluster.sbatch.nice=5", "seed=2"],
        ["run.name='a-b'", "train.deterministic=false"],
        ["task.label_smoothing=${optimizer.lr}", "seed=2"],
    ],
    ids=" ".join,
)
def test_composing_many_is_composing_each(overrides):
    fixed = ["experiment=lenet_digits", "cluster=devcluster"]
    composer = Composer(fixed)
    for _ in range(2):  # the second time from what the first has kept
        assert composer.compose(overrides) == compose.compose([*fixed, *overrides])


def test_what_one_run_changes_is_not_in_the_next():
    composer = Composer([])
    assert composer.compose(["seed=5"])["seed"] == 5
    assert composer.compose(["optimizer.lr=1"])["seed"] == 0


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("optimizer.lr=interval(3,1)", "is empty"),
        ("optimizer.lr=tag(log,interval(0,1))", "0 < a < b"),
        ("seed=range(3,3)", "has no value"),
        ("seed=range(0,3,0)", "step other than 0"),
        ("seed=range(0,1000000000)", "1e+09 values"),
        ("schedule=glob(zzz*)", "has no value"),
        ("optimizer.lr=1,,2", "cannot be read"),
    ],
)
def test_an_empty_or_broken_sweep_is_refused(word, said):
    with pytest.raises(UserError, match=said.replace("+", r"\+")):
        parse(["lenet_digits", word])


def test_a_key_given_twice_is_refused():
    with pytest.raises(UserError, match="given twice"):
        parse(["optimizer.lr=0.1,0.2", "optimizer.lr=0.3"])


@pytest.mark.parametrize(("word", "near"), [("optimizer.lrr=1", "optimizer.lr"), ("model=lenett", "lenet")])
def test_a_wrong_name_is_said_with_its_neighbour(word, near):
    with pytest.raises(UserError, match=f"did you mean {near}"):
        Composer([]).compose([word])


def test_draws_stay_within_their_bounds_and_logarithms_are_even():
    log = Interval("lr", 1e-4, 1.0, log=True, integer=False)
    drawn = [float(log.draw(random.Random(n))) for n in range(400)]
    assert all(1e-4 <= value <= 1 for value in drawn)
    assert 150 < sum(value < 1e-2 for value in drawn) < 250
    whole = Interval("n", 1, 3, log=False, integer=True)
    assert {whole.draw(random.Random(n)) for n in range(50)} == {"1", "2", "3"}
