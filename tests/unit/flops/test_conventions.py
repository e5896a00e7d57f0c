"""What each convention counts of one cost, and the connections that LeCun et al. 1998 give for their network."""

import pytest

from hpctrain.errors import UserError
from hpctrain.flops import conventions, rules
from hpctrain.flops.conventions import CONVENTIONS, OTHER, Convention, find, included
from hpctrain.flops.result import Layer
from hpctrain.flops.rules import Cost, Work
from hpctrain.models.settings_sequence import ATTENTION_AND_GATES, ATTENTION_SCORES


@pytest.mark.parametrize(
    ("name", "counted"),
    [
        ("flops", 200),
        ("macs", 100),
        ("all", 200 + 7),
        ("no_padding", 180),
        ("resnet", 100),
        ("torchvision", 100),
    ],
)
def test_each_counts_its_own_part_of_a_cost(name, counted):
    assert find(name).of(Cost(macs=100, bias=3, other=4, read=99, written=99, padding_macs=10)) == counted


def test_what_is_left_out_is_said():
    assert find("all").left_out == ""
    assert find("macs").left_out == OTHER
    assert find("no_padding").left_out == f"{OTHER}, MACs on padding"
    assert find("lenet1998").left_out == ""
    assert find("shazeer2017").left_out == f"{OTHER}, attention and gates"
    assert Convention("x", "", "", other=True, padding=False, without="a").left_out == (
        "MACs on padding, attention and gates"
    )


def test_an_unknown_convention_is_answered_with_those_that_are():
    with pytest.raises(UserError, match=r"convention=flop: must be one of all, .*torchvision.*flops"):
        find("flop")
    assert all(find(name).name == name for name in CONVENTIONS)


def test_layers_are_left_out_by_their_name():
    layers = [Layer(name, "Linear", 0, ()) for name in ("encoder.attention.query", "attention", "body")]
    assert included(layers, None) == layers
    assert [layer.name for layer in included(layers, ATTENTION_AND_GATES)] == ["body"]
    assert [layer.name for layer in included(layers, ATTENTION_SCORES)] == [
        "encoder.attention.query", "body",
    ]  # fmt: skip


def test_lenets_connections():
    """LeCun et al. 1998, section II.B: C1 has 122,304 connections, S2 5,880, the output 84 for each of 10."""
    convolution = rules.convolution(
        1, 1, 6, 1, (32, 32), (28, 28), (5, 5), (1, 1), (0, 0), (1, 1), bias=True, transposed=False
    )
    assert conventions.connections(Layer("c1", "Conv2d", 156, (Work("layer", *convolution),))) == 122_304
    forward, backward = rules.pooling(6 * 28 * 28, 6 * 14 * 14, 6 * 28 * 28, maximum=False)
    trained = Work("layer", Cost(bias=6 * 14 * 14))
    pooled = Work("pooling", forward, Cost(), backward)
    assert conventions.connections(Layer("s2", "Subsampling", 12, (pooled, trained))) == 5_880
    radial = Work("elementwise", Cost(other=2520, written=840))
    assert conventions.connections(Layer("output", "RadialBasis", 0, (radial,))) == 840
