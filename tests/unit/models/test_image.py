"""The networks that see images: small ones do real steps, and the papers' particulars hold."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hpctrain.models import WithAuxiliary, build
from hpctrain.models.lenet import C3_INPUTS, SparseConvolution, Subsampling
from hpctrain.models.settings import SETTINGS
from hpctrain.models.settings_image import (
    GoogLeNetSettings,
    LeNetSettings,
    PerceptronSettings,
    ResNet18Settings,
    ResNetSettings,
)

IMAGE, SMALLEST = (3, 32, 32), (3, 63, 63)
SMALL = [
    ("perceptron", {"input_shape": IMAGE, "activation": "sigmoid"}),
    ("mlp", {"input_shape": IMAGE, "hidden": (8, 6), "activation": "relu"}),
    ("lenet", {"input_shape": IMAGE}),
    ("lenet", {"input_shape": (1, 28, 40), "padding": 2}),
    ("lenet", {"input_shape": (1, 32, 32), "variant": "1998"}),
    ("alexnet", {"input_shape": SMALLEST, "channels": (4, 6, 8, 6, 4), "hidden": 10}),
    (
        "alexnet",
        {"input_shape": (3, 67, 67), "channels": (4, 6, 8, 6, 4), "hidden": 10, "variant": "grouped"},
    ),
    (
        "alexnet",
        {"input_shape": (3, 67, 67), "channels": (4, 6, 8, 6, 4), "hidden": 10, "variant": "ungrouped"},
    ),
    ("vgg11", {"input_shape": IMAGE, "width": 4, "hidden": 8}),
    ("vgg16", {"input_shape": IMAGE, "width": 4, "hidden": 8, "batch_norm": True}),
    ("googlenet", {"input_shape": IMAGE, "width": 0.1, "auxiliary": True}),
    ("googlenet", {"input_shape": IMAGE, "width": 0.1, "variant": "torchvision"}),
    ("resnet18", {"input_shape": IMAGE, "width": 4}),
    ("resnet50", {"input_shape": IMAGE, "width": 4, "blocks": (1, 1, 1, 1), "stem": "cifar"}),
    ("resnet50", {"input_shape": IMAGE, "width": 4, "blocks": (1, 1, 1, 1), "version": "v1"}),
]


@pytest.mark.parametrize(("name", "settings"), SMALL)
def test_a_real_step_reaches_every_parameter(name, settings):
    torch.manual_seed(0)
    settings = SETTINGS[name](num_classes=5, **settings)
    model = build(name, settings)
    output = model(torch.randn(4, *settings.input_shape))
    heads = (output.logits, *output.auxiliary) if isinstance(output, WithAuxiliary) else (output,)
    assert all(logits.shape == (4, 5) for logits in heads)
    sum(F.cross_entropy(logits, torch.tensor([0, 1, 2, 4])) for logits in heads).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("identity", lambda x: x),
        ("sigmoid", lambda x: 1 / (1 + (-x).exp())),
        ("tanh", lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp())),
        ("relu", lambda x: x.clamp(min=0)),
    ],
)
def test_perceptron_is_a_combination_and_an_activation(activation, expected):
    model = build("perceptron", PerceptronSettings((1, 2, 2), 3, activation))
    x = torch.randn(5, 1, 2, 2)
    combined = x.flatten(1) @ model.linear.weight.T + model.linear.bias
    torch.testing.assert_close(model(x), expected(combined))


def test_sparse_c3_is_a_dense_one_with_holes():
    """Table I: 1,516 parameters; each map equals a convolution over the maps that it is connected to."""
    torch.manual_seed(0)
    sparse = SparseConvolution()
    for parameter in sparse.parameters():
        nn.init.normal_(parameter)
    assert sum(p.numel() for p in sparse.parameters()) == 1516
    assert [len(inputs) for inputs in C3_INPUTS] == [3] * 6 + [4] * 9 + [6]
    assert C3_INPUTS[4:6] == ([4, 5, 0], [5, 0, 1])
    assert [sorted(C3_INPUTS[i]) for i in (12, 13, 14)] == [[0, 1, 3, 4], [1, 2, 4, 5], [0, 2, 3, 5]]
    kernels = [*sparse.three.weight, *sparse.four.weight, *sparse.six.weight]
    dense = torch.zeros(16, 6, 5, 5)
    for out, (inputs, kernel) in enumerate(zip(C3_INPUTS, kernels, strict=True)):
        dense[out, inputs] = kernel
    bias = torch.cat([sparse.three.bias, sparse.four.bias, sparse.six.bias])
    x = torch.randn(2, 6, 14, 14)
    torch.testing.assert_close(sparse(x), F.conv2d(x, dense, bias), rtol=1e-4, atol=1e-4)


def test_subsampling_sums_scales_and_shifts():
    layer = Subsampling(1)
    with torch.no_grad():
        layer.weight.fill_(0.5)
        layer.bias.fill_(-1.0)
    assert layer(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])).item() == 0.5 * 10 - 1


def test_lenet_1998_scores_are_distances_to_distinct_codes():
    codes = build("lenet", LeNetSettings(variant="1998", num_classes=128)).output.codes
    assert codes.shape == (128, 84)
    assert codes.abs().eq(1).all()
    assert len(codes.unique(dim=0)) == 128
    model = build("lenet", LeNetSettings(variant="1998"))
    torch.testing.assert_close(model.output(codes[3:4]).argmax(), torch.tensor(3))
    assert model.output(codes[3:4])[0, 3] == 0


def test_auxiliary_heads_are_for_training_only():
    model = build("googlenet", GoogLeNetSettings(input_shape=IMAGE, width=0.1, auxiliary=True))
    x = torch.randn(2, *IMAGE)
    output = model(x)
    assert isinstance(output, WithAuxiliary)
    assert len(output.auxiliary) == 2
    assert model.eval()(x).shape == (2, 1000)


def test_grouped_alexnet_keeps_its_halves_apart():
    settings = SETTINGS["alexnet"](
        variant="grouped", input_shape=(3, 67, 67), channels=(4, 4, 4, 4, 4), hidden=4
    )
    second = build("alexnet", settings).features[4]
    x = torch.randn(1, 4, 7, 7)
    changed = x.clone()
    changed[:, :2] += 1
    same = (second(x) == second(changed)).all(dim=(0, 2, 3))
    assert same.tolist() == [False, False, True, True]


def test_residual_blocks_can_start_as_the_identity():
    settings = ResNetSettings(
        blocks=(2, 1, 1, 1), width=4, stem="cifar", input_shape=IMAGE, zero_init_residual=True
    )
    block = build("resnet50", settings).layer1[1]
    x = torch.rand(2, 16, 8, 8)
    torch.testing.assert_close(block(x), x)
    basic = build(
        "resnet18", ResNet18Settings(width=4, stem="cifar", input_shape=IMAGE, zero_init_residual=True)
    )
    torch.testing.assert_close(basic.layer1[0](x[:, :4]), x[:, :4])
