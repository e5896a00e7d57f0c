"""Every architecture has the reference's number of parameters, to the last one, and the papers' shapes.

Full-size networks are built on the meta device: nothing is allocated.
"""

import csv
from pathlib import Path

import pytest
import torch
from torch import nn

from hpctrain.models import build, example_inputs
from hpctrain.models.settings import NETWORKS, SETTINGS

REFERENCE = Path(__file__).parents[2] / "golden" / "architectures.csv"
ROWS = {row["name"]: row for row in csv.DictReader(REFERENCE.read_text().splitlines())}
CHW227, CHW28 = (3, 227, 227), (1, 28, 28)
TWO_CONVOLUTIONS = {
    "conv_channels": (32, 32),
    "conv_kernels": ((41, 11), (21, 11)),
    "conv_strides": ((2, 2), (2, 1)),
}

# Start of the reference's name -> model, settings, parts that the reference says it leaves out.
CASES = {
    "AlexNet (torchvision": ("alexnet", {}, ()),
    "AlexNet 2012": ("alexnet", {"variant": "grouped", "input_shape": CHW227}, ()),
    "VGG16": ("vgg16", {}, ()),
    "GoogLeNet torchvision (3x3": ("googlenet", {"variant": "torchvision"}, ()),
    "GoogLeNet torchvision with aux": ("googlenet", {"variant": "torchvision", "auxiliary": True}, ()),
    "GoogLeNet paper": ("googlenet", {}, ()),
    "ResNet-50 v1.5": ("resnet50", {}, ()),
    "ResNet-50 v1 ": ("resnet50", {"version": "v1"}, ()),
    "ResNet-101 v1.5": ("resnet101", {}, ()),
    "ResNet-152 v1.5": ("resnet152", {}, ()),
    "ResNet-152 v1 ": ("resnet152", {"version": "v1"}, ()),
    "LeNet-5 modern (": ("lenet", {}, ()),
    "LeNet-5 modern on": ("lenet", {"padding": 2, "input_shape": CHW28}, ()),
    "Perceptron": ("perceptron", {}, ()),
    "RNN LM": ("rnn", {}, ()),
    "GRU LM": ("gru", {}, ()),
    "LSTM LM": ("lstm", {}, ()),
    "DS2 38M": (
        "deep_speech2",
        {
            "conv_channels": (1280,),
            "conv_kernels": ((161, 11),),
            "conv_strides": ((1, 2),),
            "hidden": 1280,
            "full_layers": 1,
        },
        (),
    ),
    "DS2 ~68M": ("deep_speech2", {}, ()),
    "DS2 ICML": (
        "deep_speech2",
        {
            "cell": "gru",
            "bidirectional": False,
            "hidden": 2560,
            "layers": 3,
            "lookahead": 80,
            **TWO_CONVOLUTIONS,
        },
        ("lookahead",),
    ),
    "GNMT": ("gnmt", {}, ()),
    "MoE NMT": ("gnmt_moe", {}, ("attention", "primary")),
}


def meta(name, **settings):
    return build(name, SETTINGS[name](**settings), device="meta")


def parameters(model, without=()):
    return sum(p.numel() for n, p in model.named_parameters() if not any(part in n for part in without))


@pytest.mark.parametrize("row", ROWS)
def test_parameters_are_the_references(row):
    start = next(start for start in CASES if row.startswith(start))
    name, settings, without = CASES[start]
    assert parameters(meta(name, **settings), without) == int(ROWS[row]["params"])


def test_every_case_is_a_row():
    assert all(any(row.startswith(start) for row in ROWS) for start in CASES)
    assert len(CASES) == len(ROWS)


@pytest.mark.parametrize(
    ("name", "settings", "count"),
    [
        # LeCun et al. 1998, section II.B: 156, 12, 1,516, 32, 48,120 and 10,164; the output's are fixed.
        ("lenet", {"variant": "1998"}, 60_000),
        ("mlp", {}, 785 * 300 + 301 * 100 + 101 * 10),
        # The ungrouped network lacks the halving of inputs in the second, fourth and fifth convolution.
        (
            "alexnet",
            {"variant": "ungrouped", "input_shape": CHW227},
            60_965_224 + 25 * 48 * 256 + 9 * 192 * (384 + 256),
        ),
        # Simonyan & Zisserman 2015, Table 2, in millions: 133, 133, 138, 144.
        ("vgg11", {}, 132_863_336),
        ("vgg13", {}, 133_047_848),
        ("vgg19", {}, 143_667_240),
        ("vgg16", {"batch_norm": True}, 138_357_544 + 2 * (2 * 64 + 2 * 128 + 3 * 256 + 6 * 512)),
        ("resnet18", {}, 11_689_512),
        ("resnet34", {}, 21_797_672),
        # Two directions of 650 units: the second layer's input and the output layer are twice as wide.
        ("birnn", {}, 6_500_000 + 2 * (2 * 650**2 + 1300) + 2 * (3 * 650**2 + 1300) + 1301 * 10_000),
        ("lstm", {"tied": True}, 19_780_400 - 6_500_000),
        # One-hot words: a 4H x V matrix in place of embedding and input weights; one bias is redundant.
        ("lstm", {"input": "one_hot"}, 19_780_400 - 6_500_000 - 4 * 650 * 651 + 4 * 650 * 10_000),
        ("gnmt", {"bias": True}, 280_757_248 + 17 * 2 * 4 * 1024 + 32_000),
    ],
)
def test_further_parameters(name, settings, count):
    assert parameters(meta(name, **settings)) == count


def test_deep_speech_normalisation_and_biases():
    plain, full = meta("deep_speech2"), meta("deep_speech2", norm_affine=True, bias=True)
    norms = 2 * (32 + 32 + 96 + 7 * 1760)
    assert parameters(full) - parameters(plain) == norms + 7 * 2 * 1760 + 29


def test_mixture_parts():
    model = meta("gnmt_moe")
    counts = {n: p.numel() for n, p in model.named_parameters()}
    experts = sum(count for n, count in counts.items() if "w_in" in n or "w_out" in n)
    assert experts == 2 * 2048 * 2 * 512 * 2048
    assert sum(count for n, count in counts.items() if "attention" in n) == 2 * 512 * 512 + 512
    assert sum(count for n, count in counts.items() if "primary" in n) == 2 * 512 * 16
    assert sum(count for n, count in counts.items() if "secondary" in n) == 2 * 512 * 2048


def shapes(name, kinds, settings=None):
    """Output shapes, without the batch, of every layer of `kinds` in the order they run."""
    built = SETTINGS[name](**(settings or {}))
    model, seen = build(name, built, device="meta").eval(), []
    for module in model.modules():
        if isinstance(module, kinds):
            module.register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape[1:])))
    model(*example_inputs(name, built, 1))
    return seen


def test_lenet_maps():
    layers = (nn.Conv2d, nn.AvgPool2d)
    assert shapes("lenet", layers) == [(6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5), (120, 1, 1)]


def test_alexnet_maps():
    """Krizhevsky et al. 2012, Figure 2."""
    maps = shapes("alexnet", nn.Conv2d, {"variant": "grouped", "input_shape": CHW227})
    assert maps == [(96, 55, 55), (256, 27, 27), (384, 13, 13), (384, 13, 13), (256, 13, 13)]


def test_vgg_maps():
    assert shapes("vgg16", nn.MaxPool2d) == [
        (64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14), (512, 7, 7)
    ]  # fmt: skip


def test_googlenet_maps():
    """Szegedy et al. 2015, Table 1, column "output size"."""
    from hpctrain.models.googlenet import Inception

    expected = [(256, 28, 28), (480, 28, 28), (512, 14, 14), (512, 14, 14), (512, 14, 14),
                (528, 14, 14), (832, 14, 14), (832, 7, 7), (1024, 7, 7)]  # fmt: skip
    assert shapes("googlenet", Inception) == expected
    assert shapes("googlenet", Inception, {"variant": "torchvision"}) == expected


@pytest.mark.parametrize(("version", "first", "second"), [("v1", 28, 28), ("v1.5", 56, 28)])
def test_where_a_bottleneck_strides(version, first, second):
    maps = shapes("resnet50", nn.Conv2d, {"version": version})
    assert maps[:2] == [(64, 112, 112), (64, 56, 56)]
    entry = maps.index((128, first, first))
    assert maps[entry : entry + 3] == [(128, first, first), (128, second, second), (512, 28, 28)]
    assert maps[-1] == (2048, 7, 7)


def test_deep_speech_maps():
    assert shapes("deep_speech2", nn.Conv2d) == [(32, 81, 50), (32, 41, 50), (96, 21, 50)]
    assert meta("deep_speech2").layers[0].input.in_features == 21 * 96


def test_gnmt_layers():
    model = meta("gnmt")
    assert [layer.input_size for layer in model.encoder] == [2048] + [1024] * 6
    assert [layer.input_size for layer in (model.bottom.lstm, *model.decoder)] == [2048] * 8
    mixture = meta("gnmt_moe")
    sizes = [(layer.input_size, layer.hidden_size, layer.proj_size) for layer in mixture.encoder]
    assert sizes == [(512, 2048, 512)] * 3
    assert [layer.input_size for layer in (mixture.bottom.lstm, *mixture.decoder)] == [1024, 512]


@pytest.mark.parametrize("name", NETWORKS)
def test_full_size_runs_on_meta(name):
    settings = SETTINGS[name]()
    extra = {"length": 4} if hasattr(settings, "example_length") else {}
    model = build(name, settings, device="meta").eval()
    output = model(*example_inputs(name, settings, 2, **extra))
    logits = output[0] if isinstance(output, tuple) else output
    assert logits.device == torch.device("meta")
    assert logits.shape[-1] == getattr(settings, "num_classes", None) or settings.vocabulary_size
