"""Networks that people write: both counts agree, and torch's own counter says the same MACs where it is right."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hpctrain.errors import UserError
from hpctrain.flops.count import count, on_meta
from tests.unit.flops.usual_networks import USUAL, Fn

# Torch's counter multiplies the weight gradients of grouped convolutions by the number of groups.
GROUPED = {"ConvNeXt", "EfficientNet", "MobileNetV3", "ShuffleNet"}
# It counts no products with single vectors, and no bilinear forms: MACs that it lacks, forward.
LACKING = {
    # An iteration of the power method on 8 x 48, and uᵀ·(W·v): Wᵀu, Wv, Wv and u·.
    "discriminator with old norms": 3 * 8 * 48 + 8,
    # The same for 8 x 48, 8 x 128 and 1 x 128.
    "discriminator": 3 * (8 * 48 + 8 * 128 + 128) + 8 + 8 + 1,
    # 5 pairs: 6 x 8 x 8 and 6 x 8.
    "low rank": 5 * (6 * 64 + 6 * 8),
}


def made(name):
    torch.manual_seed(0)
    model, shapes = USUAL[name]()
    return model.train(), [
        torch.empty(s, device="meta") if isinstance(s, tuple) else s.to("meta") for s in shapes
    ]


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("name", USUAL)
def test_both_counts_agree_and_torchs_own(name):
    model, inputs = made(name)
    found = count(model, inputs)
    copied = on_meta(model)
    with FlopCounterMode(display=False) as forward, FlopCounterMode(display=False) as both:
        out = copied(*inputs)
        here = forward.get_total_flops()
        roots = [t for t in (out if isinstance(out, tuple) else [out]) if t.requires_grad]
        torch.autograd.backward(roots, [torch.empty_like(t) for t in roots])
    assert found.forward.macs == here / 2 + LACKING.get(name, 0)
    if name not in {*GROUPED, *LACKING}:
        assert found.forward.macs + found.backward.macs == both.get_total_flops() / 2


@pytest.mark.parametrize("name", ["U-Net, bilinear", "SegNet"])
def test_deterministic_algorithms_change_nothing(name):
    usual = count(*made(name))
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert count(*made(name)) == usual
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        torch.use_deterministic_algorithms(True)
        assert count(*made(name)) == usual
    finally:
        torch.use_deterministic_algorithms(False)


def test_grouped_weights_cost_what_the_forward_pass_costs():
    """All convolutions of these networks are trained, and so each costs its forward pass again, and again for its input
    but for the first."""
    model, inputs = made("ShuffleNet")
    found = count(model, inputs)
    first = 2 * 8 * 27 * 256
    assert found.backward.macs == 2 * found.forward.macs - first


REFUSED = {
    "interpolate with antialias": lambda x: torch.nn.functional.interpolate(
        x, 3, mode="bilinear", antialias=True
    ),
    "norm of order 3": lambda x: x.norm(3, dim=1),
    "norm of matrices": lambda x: torch.linalg.norm(x, 2, (2, 3)),
    "pow of a tensor to a tensor": lambda x: x**x,
    "clamp to a tensor": lambda x: x.clamp(min=x.detach()),
    "einsum of 3 operands": lambda x: torch.einsum("bchw,bchw,bchw->b", x, x, x),
    "cosine_similarity of different shapes": lambda x: torch.nn.functional.cosine_similarity(x, x[:1]),
    "addmm with factors": lambda x: torch.addmm(x[0, 0], x[0, 0], x[0, 0], alpha=2),
    "grid_sample": lambda x: torch.nn.functional.grid_sample(x, x[..., :2], align_corners=False),
    "scatter_reduce": lambda x: x.scatter_reduce(1, torch.zeros_like(x, dtype=torch.int64), x, "amax"),
    "prod": lambda x: x.prod(1),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_named(name):
    net = Fn(lambda self, x: REFUSED[name](x))
    with pytest.raises(UserError, match=rf"operator={name}: has no rule") as refused:
        count(net, [torch.empty(2, 3, 4, 4, device="meta", requires_grad=True)])
    assert "allow-unknown" in str(refused.value)
