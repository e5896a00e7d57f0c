"""What a run costs: FLOPs a sample from both counts, rates, MFU and the share of the roofline."""

import re

import pytest
import torch

from hpctrain import hardware, models
from hpctrain.data.derive import load
from hpctrain.flops.document import document
from hpctrain.flops.known import counted
from hpctrain.flops.request import request
from hpctrain.flops.step import StepWork
from hpctrain.launch import estimate
from hpctrain.training.comm import Comm
from hpctrain.training.flop_accounting import Costs
from hpctrain.training.precision import tf32_allowed
from tests.integration import odd_networks

SETTINGS = [
    "model=lenet",
    "data=digits",
    "train.batch_size=16",
    "optimizer.momentum=0.9",
    "resources.ranks=2",
]


class Pictures:
    def __len__(self):
        return 1000

    def batch(self, indices):
        return torch.zeros(len(indices), 1, 32, 32), torch.zeros(len(indices))


def costs(*settings, device="cpu"):
    config = load([*SETTINGS, *settings])
    model = models.build("lenet", config.model.settings)
    return Costs(config, config.precision.name, model, Pictures(), torch.device(device)), config


def test_rates_are_work_over_time():
    made, _ = costs("++cluster.device=NVIDIA A100-SXM4-40GB")
    assert made.uncounted is None
    step = 3 * 2 * 416_520 - 2 * 117_600  # no input gradient of the first layer
    assert made.per_sample == step
    done = step * 320 + 10 * 2 * 61_706 * 4
    figures = made.rates(steps=10, samples=320, wall_s=0.5)
    assert figures.flops == done
    assert figures.gflop_per_s == pytest.approx(done / 0.5 / 1e9)
    # Torch lets cuDNN multiply as TF32 by default, and LeNet has convolutions.
    assert figures.mfu == pytest.approx(step * 320 / 0.5 / (2 * 156e12))


@pytest.mark.parametrize(
    ("device", "cudnn", "peak"),
    [
        ("NVIDIA A100-SXM4-40GB", True, 156e12),
        ("NVIDIA A100-SXM4-40GB", False, 19.5e12),
        ("Tesla V100-SXM2-32GB", True, 15.7e12),
        ("AMD Instinct MI250X", True, 47.85e12),
    ],
)
def test_fp32_has_the_peak_of_what_torch_may_multiply(monkeypatch, device, cudnn, peak):
    monkeypatch.setattr("hpctrain.training.flop_accounting.tf32_allowed", lambda: (False, cudnn))
    made, _ = costs(f"++cluster.device={device}")
    figures = made.rates(steps=10, samples=320, wall_s=0.5)
    assert figures.mfu == pytest.approx(made.per_sample * 320 / 2 / 0.5 / peak)


def test_only_layers_of_cudnn_and_matrix_products_that_may_are_tf32():
    a100 = hardware.find("A100")
    conv, dense = (StepWork(1, 1, 1.0, 1.0, 1, 1, (), cudnn) for cudnn in (True, False))
    assert [conv.format(a100, "fp32", False, allowed) for allowed in (True, False)] == ["tf32", "fp32"]
    assert [dense.format(a100, "fp32", allowed) for allowed in (True, False)] == ["tf32", "fp32"]
    assert conv.format(a100, "bf16") == "bf16"
    assert tf32_allowed() == (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)


def test_the_share_of_the_roofline_is_the_flops_commands_bound():
    made, config = costs("++cluster.device=NVIDIA A100-SXM4-40GB")
    asked = request(["model=lenet", "batch=16", "optimizer.momentum=0.9", "dtype=tf32"])
    found = counted("lenet", config.model.settings, 16)
    bound = document(asked, found, hardware.find("A100"))["lower_bound"]
    share = made.rates(steps=10, samples=320, wall_s=1.0).roofline_share
    # The command's bound holds the loss too, which is the task's affair here.
    assert share == pytest.approx(10 * bound["step_s"], rel=1e-3)


def test_an_estimate_bounds_the_time_by_the_same():
    config = load([*SETTINGS, "++cluster.device=NVIDIA A100-SXM4-40GB", "train.epochs=1"])
    facts = estimate.estimate(config)
    made, _ = costs("++cluster.device=NVIDIA A100-SXM4-40GB")
    share = made.rates(steps=facts["steps"], samples=facts["samples"], wall_s=1.0).roofline_share
    assert facts["lower_bound_s"] == pytest.approx(share, rel=1e-3)
    assert facts["flops_total"] == made.total(facts["samples"], facts["steps"])


def test_an_unknown_device_is_unknown():
    made, _ = costs("++cluster.device=Abacus 3000")
    figures = made.rates(steps=1, samples=32, wall_s=1.0)
    assert (figures.mfu, figures.roofline_share, made.device) == (None, None, None)
    assert figures.gflop_per_s > 0


def test_a_cpu_is_measured():
    made, _ = costs()
    assert made.device is not None
    assert made.device.flops["fp32"] > 1e9
    assert made.rates(steps=1, samples=32, wall_s=1e9).mfu > 0


def costs_of(model):
    class Small(Pictures):
        def batch(self, indices):
            return torch.zeros(len(indices), 1, 16, 16), torch.zeros(len(indices))

    return Costs(load(SETTINGS), "fp32", model, Small(), torch.device("cpu"))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Branch", r"Tensor.item\(\) cannot be called on meta tensors \(odd_networks.py, line \d+\)"),
        ("NumpyInside", r"no data! \(odd_networks.py, line \d+\)"),
        ("Rows", "not at the same device"),
        ("Hooked", r"hook Hooked.__init__.<locals>.<lambda> has no rule \(in first\)"),
        ("Reentrant", "autograd Function CheckpointFunction has no rule"),
        ("ThreeOperands", "einsum of 3 operands has no rule"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_a_network_that_cannot_be_counted_trains_without_figures(name, why):
    model = getattr(odd_networks, name)()
    made = costs_of(model)
    assert re.search(why, made.uncounted)
    assert (made.work, made.per_sample, made.total(10, 1)) == (None, None, None)
    rates = made.rates(steps=1, samples=32, wall_s=2.0)
    assert (rates.samples_per_s, rates.flops, rates.gflop_per_s, rates.mfu, rates.roofline_share) == (
        16,
        *4 * [None],
    )
    line = made.headline(Comm(), torch.device("cpu"), 0, 10)
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters, FLOPs unknown: " in line


def test_counts_that_differ_leave_the_figures_out(monkeypatch):
    from hpctrain.flops import walk

    monkeypatch.setitem(walk.RULES, "tanh", walk.RULES["relu"])
    why = costs_of(odd_networks.Plain()).uncounted
    assert why == (
        "COUNT_DIFFERS: layer (model), input_grad: closed form 0 MACs and 192 other operations, trace 0 and 576"
    )


def test_the_count_can_be_left_out():
    made, _ = costs("train.flops=off")
    assert (made.work, made.uncounted) == (None, "train.flops=false")
    config = load([*SETTINGS, "train.flops=off"])
    facts = estimate.estimate(config)
    assert facts["flops_total"] is None
    assert "FLOPs unknown: train.flops=false" in estimate.shown(facts, None)
