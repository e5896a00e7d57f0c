"""What a whole run costs, by hand."""

from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace

import pytest

from hpctrain.config.settings import ModelConfig, SgdConfig
from hpctrain.errors import UserError
from hpctrain.flops import runs
from hpctrain.flops.conventions import find
from hpctrain.flops.request import Request, RunPlan, Settings
from hpctrain.flops.result import Count, Layer
from hpctrain.flops.rules import Cost, Work
from hpctrain.flops.runs import (
    RunTotal,
    StepBound,
    optimizer_elements,
    optimizer_flops,
    polynomial,
    run_figures,
    run_total,
)
from hpctrain.models.network import Network
from hpctrain.models.settings import NETWORKS


def total(**changes):
    given = {"samples": 10, "epochs": 2, "batch": 2} | changes
    return run_total(Fraction(100), 7, **given)


def test_steps_count_the_tail_of_each_epoch():
    assert total() == RunTotal(10, 2000, 70)
    # 3 steps of 4 samples, the last of which is half full.
    assert total(accumulate=2) == RunTotal(6, 2000, 42)
    # Half an epoch more is 5 samples: 2 steps.
    assert total(accumulate=2, epochs=2.5) == RunTotal(8, 2500, 56)


def test_each_rank_updates_all_parameters():
    assert total(ranks=2) == RunTotal(6, 2000, 6 * 7 * 2)
    assert total(ranks=2, accumulate=2, epochs=0.5) == RunTotal(1, 500, 14)


def test_an_epochs_share_is_the_decimal_that_was_written():
    # 0.1 of 10 samples is one sample, although the float 0.1 is a little more than a tenth.
    assert total(epochs=0.1, batch=1) == RunTotal(1, 100, 7)


def test_fractions_of_operations_are_rounded_in_the_end():
    assert run_total(Fraction(1, 3), 0, samples=5, epochs=1, batch=1).useful == 2


def test_exaflops_are_all_operations():
    assert RunTotal(1, 2 * 10**18, 10**18).exaflops == 3


# A matrix of 6 and a vector of 2.
PARAMETERS = Count((), 8, parameter_sizes=((6, 2), (2, 1)))


@pytest.mark.parametrize(
    ("settings", "operations", "elements"),
    [
        ({"name": "sgd"}, 8 * 2, 8 * 3),
        ({"name": "sgd", "momentum": 0.0, "weight_decay": 0.0}, 8 * 2, 8 * 3),
        ({"name": "sgd", "momentum": 0.9}, 8 * 4, 8 * 5),
        ({"name": "sgd", "momentum": 0.9, "nesterov": True}, 8 * 6, 8 * 5),
        ({"name": "sgd", "weight_decay": 0.1}, 8 * 4, 8 * 3),
        ({"name": "sgd", "weight_decay": 0.1, "decay_norm_and_bias": True}, 8 * 4, 8 * 3),
        ({"name": "sgd", "weight_decay": 0.1, "decay_norm_and_bias": False}, 6 * 4 + 2 * 2, 8 * 3),
        ({"name": "adam"}, 8 * 13, 8 * 7),
        ({"name": "adamw", "weight_decay": 0.1}, 8 * 14, 8 * 7),
        ({"name": "lars", "momentum": 0.9}, 6 * 9 + 2 * 4, 8 * 5),
    ],
)
def test_an_update_of_all_parameters(settings, operations, elements):
    optimizer = SimpleNamespace(**settings)
    assert optimizer_flops(PARAMETERS, optimizer) == operations
    assert optimizer_elements(PARAMETERS, optimizer) == elements


def test_three_points_determine_a_parabola():
    # y = x² + x + 1
    points = [(1, Fraction(3)), (2, Fraction(7)), (4, Fraction(21))]
    assert [polynomial(points, x) for x in (0, 1, 2, 3, 10)] == [1, 3, 7, 13, 111]
    assert polynomial([(3, Fraction(7))], 100) == 7


# Networks of 8 parameters, which SGD updates with 16 operations.
@dataclass(frozen=True)
class Images:
    """Every sample costs the same."""


@dataclass(frozen=True)
class Sequences:
    """A sample of n words costs n² + 1 MACs."""

    example_length: int = 10


@dataclass(frozen=True)
class Mixture(Sequences):
    """A sample of n words costs n² + 1 MACs, and 7 more from 100 words on: no polynomial."""


def step(forward, weight_grad=0, input_grad=0):
    """Returns the count of a step with so many MACs."""
    work = Work("layer", Cost(macs=forward), Cost(macs=weight_grad), Cost(macs=input_grad))
    return Count((Layer("only", "Linear", 8, (work,)),), 8, parameter_sizes=PARAMETERS.parameter_sizes)


def figures(network, *, counted_batch=1, count=PARAMETERS, bound=None, **plan):
    settings = Settings(SgdConfig(lr=0.1), run=RunPlan(**plan))
    asked = Request(ModelConfig("toy", network), settings, find("flops"), counted_batch)
    return run_figures(asked, count, bound)


@pytest.fixture
def counted(monkeypatch):
    """Counts sequences by their formula; returns the lengths that were counted."""
    lengths = []

    def count(name, settings, batch):
        assert name == "toy"
        n = settings.example_length
        lengths.append(n)
        return step(batch * (n * n + 1 + (7 if isinstance(settings, Mixture) and n >= 100 else 0)))

    monkeypatch.setattr(runs, "counted", count)
    monkeypatch.setitem(NETWORKS, "toy", Network(Sequences, ""))
    return lengths


def test_a_run_over_images():
    # A step of 4 samples has 80 MACs: 40 FLOPs per sample. 5 and 3 steps of 2 ranks with 10 samples each.
    found = figures(
        Images(),
        counted_batch=4,
        count=step(40, 30, 10),
        bound=StepBound(0.5, 0.25, 0.125),
        samples=100,
        epochs=1.5,
        batch=10,
        ranks=2,
    )
    assert found == {
        "dataset": None,
        "samples": 100,
        "epochs": 1.5,
        "lengths": None,
        "batch": 10,
        "accumulate": 1,
        "ranks": 2,
        "expected_exaflops": None,
        "note": None,
        "flops_per_sample": 40.0,
        "steps": 8,
        "useful_flops": 6000,
        "optimizer_flops": 8 * 2 * 16,
        "exaflops": 6256e-18,
        # 150 samples, 4 of which take 0.25 s at least (a batch of 10 reads weights less often); 2 ranks; 8 updates.
        "lower_bound_s": 150 / 8 * 0.25 + 8 * 0.125,
        "arithmetic": "100 x 1.5 x 40 FLOPs (2 a MAC, forward and backward) + 8 x 2 updates x 16",
    }


def test_steps_gather_passes_and_large_numbers_are_grouped():
    found = figures(
        Images(), count=step(10**6), samples=1_281_167, epochs=90, batch=32, accumulate=4, ranks=8
    )
    assert found["steps"] == 90 * 1252  # 1024 samples each, the last of an epoch 143
    assert found["arithmetic"].startswith("1,281,167 x 90 x 2e+06 FLOPs ")
    assert found["arithmetic"].endswith("+ 112,680 x 8 updates x 16")


def test_a_lower_bound_needs_a_bound_for_a_step_of_equal_samples(counted):
    plan = {"samples": 10, "epochs": 1}
    assert figures(Images(), count=step(1), bound=None, **plan)["lower_bound_s"] is None
    bound = StepBound(0.5, 0.25, 0.125)
    assert figures(Sequences(), count=step(1), bound=bound, **plan)["lower_bound_s"] is None


def test_a_run_updates_once_a_step_whatever_a_batch_is_divided_into(counted):
    """Brute force: each micro-batch takes its passes, each step one update."""
    bound = StepBound(0.5, 0.25, 0.125)
    for batch, accumulate, ranks in ((4, 1, 1), (4, 8, 1), (2, 4, 3), (1, 16, 2)):
        whole = batch * accumulate * ranks
        found = figures(
            Images(), counted_batch=4, count=step(1), bound=bound, samples=10 * whole, epochs=2, batch=batch,
            accumulate=accumulate, ranks=ranks,
        )  # fmt: skip
        of_one_rank = sum(batch * 0.5 / 4 for _ in range(2 * 10 * accumulate)) + 2 * 10 * 0.125
        assert found["lower_bound_s"] == pytest.approx(of_one_rank)


def test_sequences_have_the_networks_own_length_unless_lengths_are_given(counted):
    found = figures(Sequences(), samples=10, epochs=1)
    assert found["lengths"] == {10: 1.0}
    assert found["flops_per_sample"] == 202
    assert "backward; 100% of length 10)" in found["arithmetic"]


def test_lengths_count_by_their_shares(counted):
    # 20 words 802 FLOPs, 40 words 3202; of four samples three have 20.
    found = figures(Sequences(), counted_batch=2, samples=10, epochs=1, lengths={20: 0.6, 40: 0.2})
    assert found["lengths"] == {20: 0.6, 40: 0.2}
    assert found["flops_per_sample"] == 1402
    assert found["useful_flops"] == 14020
    assert (
        "x 1402 FLOPs (2 a MAC, forward and backward; 75% of length 20, 25% of length 40)"
        in found["arithmetic"]
    )


def test_short_sequences_stand_for_long_ones(counted):
    figures(Sequences(), samples=10, epochs=1, lengths={20: 0.5, 10_000: 0.5})
    assert counted == [4, 8, 12]


def test_a_mixture_is_counted_at_each_length(counted, monkeypatch):
    monkeypatch.setitem(NETWORKS, "toy", Network(Mixture, "", mixture=lambda settings: None))
    found = figures(Mixture(), samples=10, epochs=1, lengths={20: 0.5, 100: 0.5})
    assert counted == [20, 100]
    assert found["flops_per_sample"] == 401 + 10_008


def test_no_run_has_no_figures():
    assert figures(Images(), count=step(1)) is None


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"samples": 10}, "run.epochs=: is missing: a run has samples and epochs"),
        ({"epochs": 2}, "run.samples=: is missing: a run has samples and epochs"),
        (
            {"samples": 10, "epochs": 2, "lengths": {5: 1.0}},
            "run.lengths={5: 1.0}: samples of toy have no length",
        ),
    ],
)
def test_half_a_run_is_refused(plan, said):
    with pytest.raises(UserError) as raised:
        figures(Images(), count=step(1), **plan)
    assert str(raised.value) == said
