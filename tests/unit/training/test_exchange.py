"""Gradients in flat buckets are the gradients that plain autograd gives."""

import pytest
import torch
from torch import nn

from hpctrain.training.comm import Comm
from hpctrain.training.exchange import GradientExchange
from hpctrain.training.session import share_cores


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 5)
    ).double()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bucket_mb", [1e-5, 0.001, 25.0])
def test_gradients_equal_autograd_s(layout, bucket_mb):
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    plain, ours = network().to(memory_format=layout), network().to(memory_format=layout)
    plain(images).square().sum().backward()
    exchange = GradientExchange(list(ours.parameters()), Comm(), bucket_mb=bucket_mb, extras=3)
    for _ in range(2):  # the second step must not see the first one's sums
        exchange.begin()
        exchange.arm()
        ours(images).square().sum().backward()
        exchange.finish()
    for expected, got in zip(plain.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(got.grad, expected.grad, rtol=1e-12, atol=0)
        assert got.grad.stride() == got.stride()


def test_norm_and_scale_leave_the_extras_out():
    model = network()
    exchange = GradientExchange(list(model.parameters()), Comm(), bucket_mb=0.001, extras=2)
    exchange.begin()
    exchange.extras[:] = torch.tensor([7.0, 1e9])
    model(torch.randn(2, 3, 8, 8, dtype=torch.float64)).sum().backward()
    grads = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(exchange.norm(), torch.linalg.vector_norm(grads))
    exchange.scale(torch.tensor(0.5, dtype=torch.float64))
    torch.testing.assert_close(exchange.norm(), 0.5 * torch.linalg.vector_norm(grads))
    assert exchange.extras.tolist() == [7.0, 1e9]


def test_accumulation_adds_up():
    model, images = network().eval(), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    exchange = GradientExchange(list(model.parameters()), Comm())
    exchange.begin()
    model(images).sum().backward()
    whole = [p.grad.clone() for p in model.parameters()]
    exchange.begin()
    for half in images.split(2):
        model(half).sum().backward()
    for expected, parameter in zip(whole, model.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected)


class Recorder(Comm):
    """Stands in for two ranks that hold the same: a sum doubles."""

    size = 2

    def __init__(self):
        self.names = []

    def start_sum(self, tensor, name):
        self.names.append(name)
        return tensor.mul_(2)


def test_buckets_start_from_the_last_layer_and_once_each():
    model, comm = network(), Recorder()
    exchange = GradientExchange(list(model.parameters()), comm, bucket_mb=0.002)
    assert len(exchange.buckets) > 1
    exchange.begin()
    exchange.arm()
    model(torch.randn(2, 3, 8, 8, dtype=torch.float64)).sum().backward()
    started_by_hooks = list(comm.names)
    exchange.finish()
    assert started_by_hooks == comm.names == [bucket.name for bucket in exchange.buckets]
    assert exchange.buckets[0].parameters[0] is model[4].bias


def test_a_rank_without_samples_still_takes_part():
    model, comm = network(), Recorder()
    exchange = GradientExchange(list(model.parameters()), comm)
    exchange.begin()
    exchange.finish()
    assert comm.names == ["bucket.0"]
    assert all(p.grad.abs().sum() == 0 for p in model.parameters())


def test_half_precision_on_the_wire_is_close():
    model, comm = network().float(), Recorder()
    exchange = GradientExchange(list(model.parameters()), comm, half=True)
    exchange.begin()
    exchange.arm()
    model(torch.randn(2, 3, 8, 8)).mean().backward()
    exchange.finish()
    assert exchange.buckets[0].wire.dtype == torch.float16
    torch.testing.assert_close(
        exchange.buckets[0].flat, exchange.buckets[0].wire.float(), rtol=1e-3, atol=1e-4
    )


def test_a_rank_takes_no_more_cores_than_slurm_gave_it(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {2, 5, 6, 7})
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    assert share_cores(Comm()) == 4
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert share_cores(Comm()) == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")  # hardware threads, or a cgroup that is smaller
    assert share_cores(Comm()) == 4
