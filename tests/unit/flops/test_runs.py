"""What a whole run costs, by hand."""

from fractions import Fraction
from types import SimpleNamespace

import pytest

from hpctrain.flops.result import Count
from hpctrain.flops.runs import RunTotal, optimizer_elements, optimizer_flops, run_total


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
