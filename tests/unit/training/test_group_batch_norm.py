"""Batch norm over ranks, on one: it is torch's own, forwards, backwards and in its running statistics."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from hpctrain.data.sampler import Share, share
from hpctrain.training.comm import Comm
from hpctrain.training.group_batch_norm import share_norms


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}]
)
def test_equals_torch(layout, options):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, **options), nn.ReLU()).to(
        memory_format=layout
    )
    ours = copy.deepcopy(plain)
    group, count = share_norms(ours, Comm())
    group.together = True
    assert count == 1
    assert [*ours.state_dict()] == [*plain.state_dict()]
    for _ in range(3):
        x = 5 + 3 * torch.randn(4, 3, 9, 9).to(memory_format=layout)
        for model in (plain, ours):
            model.zero_grad()
            model(x).square().mean().backward()
    assert ours[1](plain[0](x)).stride() == plain[1](plain[0](x)).stride()
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        # The bias of the convolution has no gradient but rounding: the norm takes it out again.
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)
    for one, other in zip(ours.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(ours.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 7), (3, 5, 4, 4, 4)])
def test_every_shape_and_bfloat16(shape):
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 5: nn.BatchNorm3d}[len(shape)]
    plain = nn.Sequential(kind(5))
    ours = copy.deepcopy(plain)
    share_norms(ours, Comm())[0].together = True
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(shape).to(dtype)
        one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        weights = torch.randn(shape).to(dtype)
        (ours(one) * weights).sum().backward()
        (plain(other) * weights).sum().backward()
        assert one.grad.dtype == dtype
        tolerance = {} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
        torch.testing.assert_close(one.grad, other.grad, **tolerance)


def test_apart_it_is_the_layer_that_it_was():
    plain = nn.Sequential(nn.BatchNorm2d(4))
    ours = copy.deepcopy(plain)
    share_norms(ours, Comm())
    x = torch.randn(2, 4, 3, 3)
    assert torch.equal(ours(x), plain(x))


@pytest.mark.parametrize("samples", range(1, 30))
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_ranks_in_step_have_as_many_parts(samples, ranks, batch_size):
    shares = [share(np.arange(samples), 0, samples, rank, ranks) for rank in range(ranks)]
    parts = [own.micro_batches(batch_size) for own in shares]
    for own, found in zip(shares, parts, strict=True):
        assert [i for place in found for i in own.indices[place]] == own.indices.tolist()
        assert all(len(own.indices[place]) <= batch_size for place in found)
    together = {own.in_step(batch_size) for own in shares}
    assert len(together) == 1
    if together == {True}:
        assert len({len(found) for found in parts}) == 1
        assert all(len(own.indices[p]) > 0 for own, f in zip(shares, parts, strict=True) for p in f)
    else:  # the tail of an epoch only: fewer samples than a part for each rank
        assert samples < ranks * batch_size or batch_size == 1


def test_one_rank_is_always_in_step():
    assert Share(np.arange(7), 7).in_step(3)
    assert [place.stop - place.start for place in Share(np.arange(7), 7).micro_batches(3)] == [2, 2, 3]
