"""An axis follows the scale on which a setting was swept."""

import pytest

from hpctrain.report.axis import axis, likely_scale, round_numbers


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([0.003, 0.01, 0.03, 0.1], "log"),
        ([32, 64, 128, 256], "log"),
        ([0.1, 0.2, 0.3], "linear"),
        ([1, 2, 3, 4, 5, 6], "linear"),
        ([0.001, 0.1], "log"),
        ([0.1, 0.2], "linear"),
        ([0.0, 0.9], "linear"),
        ([0, 1e-5, 1e-4, 1e-3], "names"),  # a zero has no place on a logarithmic axis
        ([-1.0, 0.5, 100.0], "linear"),
        ([0.1], "linear"),
    ],
)
def test_the_scale_is_read_from_the_gaps(values, scale):
    assert likely_scale(values * 3) == scale


def test_who_swept_says_the_scale():
    drawn = [0.11, 0.12, 0.17, 0.5]
    assert axis(drawn, "log").scale == "log"
    assert axis([0.001, 0.01, 0.1], "linear").scale == "linear"
    assert axis([0.0, 0.5], "log").scale == "linear", "zero is no value of a logarithmic interval"


def test_few_values_have_a_tick_each():
    assert axis([0.1, 0.003, 0.01, 0.03, 0.1]).ticks == [
        (0.003, "0.003"),
        (0.01, "0.01"),
        (0.03, "0.03"),
        (0.1, "0.1"),
    ]
    assert axis([0, 1, 2, 0, 1, 2]).ticks == [(0, "0"), (1, "1"), (2, "2")]
    assert [text for _, text in axis([0.0, 0.5, 0.75]).ticks] == ["0.00", "0.50", "0.75"]


def test_whole_numbers_have_no_fractional_ticks():
    assert all("." not in text for _, text in axis(list(range(1, 21))).ticks)


def test_a_long_logarithmic_axis_has_round_ticks():
    values = [10 ** (-5 + n / 20) for n in range(101)]
    texts = [text for _, text in axis(values, "log").ticks]
    assert texts == ["1e-5", "1e-4", "0.001", "0.01", "0.1", "1"]
    assert not any("^" in text or "×" in text for text in texts)


@pytest.mark.parametrize(
    ("low", "high"), [(600, 900), (1, 1e12), (0.03, 0.05), (214, 860), (1e-9, 1e-8), (5, 5)]
)
def test_round_numbers_are_few_and_inside(low, high):
    found = round_numbers(low, high)
    assert 1 <= len(found) <= 8
    assert all(low * 0.999 <= v <= high * 1.001 for v in found)


def test_names_are_in_order_and_numbers_come_first():
    found = axis(["b", 10, 9, True, None, "a"])
    assert found.scale == "names"
    assert [text for _, text in found.ticks] == ["9", "10", "None", "True", "a", "b"]
    assert found.places == [5, 1, 0, 3, 2, 4]


def test_long_names_keep_both_ends():
    (tick,) = axis(["/data/" + "x" * 100 + "/version-7"]).ticks
    assert len(tick[1]) <= 18
    assert tick[1].startswith("/data/")
    assert tick[1].endswith("version-7")


def test_heights_of_parallel_coordinates():
    places, ticks = axis([1, 10, 100]).heights()
    assert places == pytest.approx([0, 0.5, 1])
    assert ticks == pytest.approx([0, 0.5, 1])
    assert axis([3.0, 3.0]).heights()[0] == [0.5, 0.5]
