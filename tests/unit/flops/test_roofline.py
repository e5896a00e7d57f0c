"""The roofline of a device of round figures."""

import pytest

from hpctrain.errors import UserError
from hpctrain.flops import rules
from hpctrain.flops.roofline import Bound, bound, joined, mfu
from hpctrain.flops.rules import Cost
from hpctrain.hardware import Device

DEVICE = Device("toy", {"fp32": 100.0, "bf16": 400.0}, 10.0, "made up")


@pytest.mark.parametrize(
    ("cost", "precision", "expected"),
    [
        # 1,000 operations take 10 s; 15 elements of 4 bytes 6 s.
        (Cost(macs=500, read=10, written=5), "fp32", Bound(10.0, "compute", 1000, 60)),
        # At half of the bytes and a quarter of the time: 2.5 s and 3 s.
        (Cost(macs=500, read=10, written=5), "bf16", Bound(3.0, "memory", 1000, 30)),
        (Cost(other=500, read=10, written=5), "fp32", Bound(6.0, "memory", 0, 60)),
        (Cost(macs=50, read=1, written=1.5), "fp32", Bound(1.0, "compute", 100, 10)),
        (Cost(), "fp32", Bound(0.0, "compute", 0, 0)),
        # Products with padding zeros need not be made: 800 operations of 1,000.
        (Cost(macs=500, read=10, written=5, padding_macs=100), "fp32", Bound(8.0, "compute", 800, 60)),
    ],
)
def test_a_pass_takes_what_binds_it(cost, precision, expected):
    assert bound(cost, DEVICE, precision) == expected


def test_intensity_is_operations_a_byte():
    assert Bound(1.0, "compute", 90, 60).intensity == 1.5
    assert Bound(1.0, "compute", 90, 0).intensity == 0.0


def test_an_unknown_peak_is_a_users_error():
    with pytest.raises(UserError, match="dtype=fp64: the peak of toy is known for fp32, bf16"):
        bound(Cost(), DEVICE, "fp64")


def test_passes_follow_one_another():
    compute, memory = Bound(3.0, "compute", 5, 7), Bound(2.0, "memory", 11, 13)
    assert joined([compute, memory]) == Bound(5.0, "compute", 16, 20)
    assert joined([compute, memory, memory]) == Bound(7.0, "memory", 27, 33)
    assert joined(iter([memory, Bound(2.0, "compute", 0, 0)])).by == "compute"  # as long: compute


def test_mfu_is_the_share_of_the_peak():
    assert mfu(600.0, 10.0, 100.0) == 0.6


def test_the_roofline_of_a_convolution_is_that_of_the_products_that_a_loop_makes():
    """A 3x3 convolution with padding; the count has the products with padding zeros, the roofline has not."""
    size, channels, outputs = 5, 2, 3
    made = sum(
        0 <= y + dy < size and 0 <= x + dx < size
        for y in range(size) for x in range(size) for dy in (-1, 0, 1) for dx in (-1, 0, 1)
        for _ in range(channels * outputs)
    )  # fmt: skip
    passes = rules.convolution(
        1, channels, outputs, 1, (5, 5), (5, 5), (3, 3), (1, 1), (1, 1), (1, 1), bias=False, transposed=False
    )
    fast = Device("toy", {"fp32": 1.0}, 1e12, "made up")
    for cost in passes:
        assert cost.macs == size**2 * 9 * channels * outputs
        assert bound(cost, fast, "fp32").seconds == 2 * made
