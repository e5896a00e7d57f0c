"""Users' networks: lazy modules get their sizes, and what cannot be trained is refused by name."""

import pytest
import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from hpctrain.errors import UserError
from hpctrain.models import build, check_tail, check_trainable, initialise
from hpctrain.models.settings import SETTINGS


def pictures(count):
    return (torch.zeros(count, 3, 8, 8),)


def never(count):
    raise AssertionError(f"asked for {count} samples")


def test_lazy_modules_get_their_sizes_from_a_sample():
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(2))
    initialise(model, pictures)
    assert [tuple(p.shape) for p in model.parameters()] == [(4, 3, 3, 3), (4,), (4,), (4,), (2, 144), (2,)]
    assert not any(isinstance(p, UninitializedParameter) for p in model.parameters())
    initialise(model, never)


def test_what_cannot_be_trained_is_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    check_trainable(model)
    model[0].requires_grad_(False)
    check_trainable(model)
    model[1].register_parameter("turn", nn.Parameter(torch.zeros(2, dtype=torch.complex64)))
    with pytest.raises(
        UserError, match=r"model.target=Sequential: its parameter 1.turn is complex.*view_as_complex"
    ):
        check_trainable(model)
    with pytest.raises(UserError, match="has no parameter to train"):
        check_trainable(model.requires_grad_(False))
    with pytest.raises(UserError, match="has no parameter to train"):
        check_trainable(nn.ReLU())


def norms(pixels):
    return nn.Sequential(nn.Conv2d(3, 4, pixels), nn.BatchNorm2d(4), nn.Dropout(0.5))


def test_a_tail_that_batch_norm_cannot_take_is_refused():
    model = norms(8)
    model[1].running_mean[:] = 5
    seed = torch.get_rng_state()
    with pytest.raises(
        UserError, match=r"data.drop_last=false: the last batch of an epoch has one sample for a rank"
    ):
        check_tail(model, pictures, 1)
    assert torch.equal(torch.get_rng_state(), seed)
    check_tail(model, never, 2)
    check_tail(model.eval(), pictures, 1)


def test_one_sample_of_many_pixels_is_enough_and_changes_nothing():
    model = norms(3).train()
    seed = torch.get_rng_state()
    check_tail(model, pictures, 1)
    assert torch.equal(torch.get_rng_state(), seed)
    assert model[1].num_batches_tracked == 0
    assert torch.equal(model[1].running_var, torch.ones(4))
    check_tail(nn.Linear(2, 2), never, 1)


def test_errors_that_are_not_the_tail_s_come_through():
    class Raises(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, x):
            raise ValueError("the user's")

    with pytest.raises(ValueError, match="the user's"):
        check_tail(Raises(), pictures, 1)


def test_own_networks_are_never_built_on_the_cpu_for_a_count():
    with torch.device("cpu"):
        assert all(p.is_meta for p in build("lenet", SETTINGS["lenet"](), device="meta").parameters())
