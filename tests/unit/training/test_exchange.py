"""Gradients in flat buckets are the gradients that plain autograd gives."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from hpctrain.config.settings import AdamConfig, LarsConfig, SgdConfig
from hpctrain.errors import RunFailed
from hpctrain.training.comm import Comm
from hpctrain.training.exchange import GradientExchange
from hpctrain.training.optimizers import make_optimizer
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
    names = [bucket.name for bucket in exchange.buckets]
    assert len(names) > 1
    for started_by_hooks in ([], names):  # the first pass only shows that each gradient comes once
        comm.names.clear()
        exchange.begin()
        exchange.arm()
        model(torch.randn(2, 3, 8, 8, dtype=torch.float64)).sum().backward()
        assert comm.names == started_by_hooks
        exchange.finish()
        assert comm.names == names
    assert exchange.buckets[0].parameters[0] is model[4].bias


class Recomputed(nn.Module):
    """A block in so many reentrant checkpoints, each of which makes its gradient arrive once more."""

    def __init__(self, times):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.block, self.times = nn.Linear(4, 4), nn.Linear(4, 4), times

    def forward(self, x):
        x = self.first(x)
        for _ in range(self.times):
            x = checkpoint(self.block, x, use_reentrant=True).tanh()
        return x


def steps(model, comm, times=(), **settings):
    """Trains steps, each with its number of checkpoints; returns the gradients of the last one, and what was said."""
    said = []
    names = {parameter: name for name, parameter in model.named_parameters()}
    exchange = GradientExchange(
        list(model.parameters()), comm, bucket_mb=1e-5, names=names, say=said.append, **settings
    )
    for model.times in times:
        exchange.begin()
        exchange.arm()
        model(torch.ones(2, 4)).sum().backward()
        exchange.finish()
    return [parameter.grad.clone() for parameter in model.parameters()], said


@pytest.mark.parametrize("overlap", [True, False])
def test_a_gradient_that_arrives_several_times_is_summed_whole(overlap):
    expected = [2 * gradient for gradient in steps(Recomputed(3), Comm(), (3,))[0]]
    comm = Recorder()
    got, said = steps(Recomputed(3), comm, (3, 3, 3), overlap=overlap)
    for one, other in zip(expected, got, strict=True):
        torch.testing.assert_close(one, other)
    assert len(said) == 1
    assert said[0].startswith("block.bias, block.weight: more than one gradient")


def test_buckets_of_gradients_that_come_once_still_start_early():
    model, comm = Recomputed(3), Recorder()
    exchange = GradientExchange(list(model.parameters()), comm, bucket_mb=1e-5)
    for _ in range(2):
        comm.names.clear()
        exchange.begin()
        exchange.arm()
        model(torch.ones(2, 4)).sum().backward()
        early = list(comm.names)
        exchange.finish()
    again = set(map(id, model.block.parameters()))
    once = [b.name for b in exchange.buckets if not again & set(map(id, b.parameters))]
    assert len(once) == 2
    assert early == once[:-1], "the last bucket says what came in all others, so it waits for them"


def test_a_gradient_that_comes_too_late_is_an_error_before_the_update():
    with pytest.raises(RunFailed, match=r"block.bias, block.weight: got another gradient") as failed:
        steps(Recomputed(1), Recorder(), (1, 1, 2))
    assert failed.value.reason == "LATE_GRADIENT"
    assert "comm.overlap=false" in failed.value.detail
    expected = [2 * gradient for gradient in steps(Recomputed(2), Comm(), (2,))[0]]
    for one, other in zip(
        expected, steps(Recomputed(1), Recorder(), (1, 1, 2), overlap=False)[0], strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.filterwarnings("ignore:Using backward")
def test_a_gradient_that_autograd_replaces_stays_in_its_bucket():
    model = nn.Linear(3, 2)
    exchange = GradientExchange(list(model.parameters()), Comm())
    for _ in range(2):
        exchange.begin()
        model(torch.ones(1, 3)).square().sum().backward(create_graph=True)
        exchange.finish()
    expected = torch.autograd.grad(model(torch.ones(1, 3)).square().sum(), model.weight)[0]
    assert torch.equal(model.weight.grad, expected)
    torch.testing.assert_close(exchange.norm() ** 2, sum(p.grad.square().sum() for p in model.parameters()))
    assert not model.weight.grad.requires_grad


class Half(nn.Module):
    """The second layer is used if `times` is true; nothing uses the third."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third, self.times = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), 1

    def forward(self, x):
        return self.second(self.first(x)) if self.times else self.first(x)


@pytest.mark.parametrize(
    "optimizer", [SgdConfig(0.1, momentum=0.9, weight_decay=0.1), AdamConfig(0.1), LarsConfig(0.1)]
)
@pytest.mark.parametrize("comm", [Comm, Recorder])
def test_a_parameter_without_a_gradient_is_left_alone_as_in_plain_pytorch(comm, optimizer):
    ours, plain, said = Half(), Half(), []
    names = {parameter: name for name, parameter in ours.named_parameters()}
    exchange = GradientExchange(list(ours.parameters()), comm(), bucket_mb=1e-5, names=names, say=said.append)
    own, other = (make_optimizer(optimizer, model.named_parameters()) for model in (ours, plain))
    for times in (1, 0, 1, 0):
        ours.times = plain.times = times
        exchange.begin()
        exchange.arm()
        ours(torch.ones(2, 4)).square().sum().backward()
        exchange.finish()
        exchange.leave_out_unused()
        own.step()
        other.zero_grad()
        (plain(torch.ones(2, 4)).square().sum() * exchange._comm.size).backward()
        other.step()
    for one, two in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, two)
    assert torch.equal(ours.third.weight, Half().third.weight)
    assert said == [
        "third.bias, third.weight: without a gradient on any rank in a step; the update leaves such parameters alone"
    ]


def test_a_parameter_that_another_rank_used_is_updated():
    class Elsewhere(Recorder):
        def start_sum(self, tensor, name):
            super().start_sum(tensor, name)
            exchange._used[:] += 1
            return tensor

    model = Half()
    exchange = GradientExchange(list(model.parameters()), Elsewhere())
    model.times = 0
    exchange.begin()
    exchange.arm()
    model(torch.ones(2, 4)).sum().backward()
    exchange.finish()
    exchange.leave_out_unused()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_coarse_numbers_keep_exact_counts():
    for half, kind in ((True, torch.float32), (False, torch.bfloat16)):
        model = nn.Linear(2, 2).to(kind)
        exchange = GradientExchange(list(model.parameters()), Recorder(), extras=2, half=half)
        exchange.begin()
        exchange.extras[:] = torch.tensor([4097.0, 1e6])
        exchange.arm()
        model(torch.ones(1, 2, dtype=kind)).sum().backward()
        exchange.finish()
        assert exchange.extras.tolist() == [8194, 2e6]


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
