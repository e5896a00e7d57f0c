"""The form of figures: ticks are plain numbers, texts of users are texts, and a PNG has the dots of a print."""

import warnings

import pytest

from hpctrain.report.canvas import DPI, canvas, picture, plain_ticks, tick_text, tick_texts


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.0, 0.5, 1.0], ["0.0", "0.5", "1.0"]),
        ([0.92341, 0.92342, 0.92343], ["0.92341", "0.92342", "0.92343"]),  # no offset of 0.9234
        ([0.0, 10_000.0, 20_000.0], ["0", "10,000", "20,000"]),
        ([-2.0, -1.5, -0.0], ["-2.0", "-1.5", "0.0"]),
        ([0.1 + 0.2, 0.4], ["0.3", "0.4"]),
        ([0.0, 2e-5, 4e-5], ["0", "2e-5", "4e-5"]),  # each for itself, no common factor beside the axis
        ([0.0, 1e12], ["0", "1e12"]),
        ([], []),
    ],
)
def test_ticks_have_the_same_decimals(values, texts):
    assert tick_texts(values) == texts


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1e-5, "1e-5"),
        (3e-4, "3e-4"),
        (0.001, "0.001"),
        (1024, "1,024"),
        (2.5e7, "2.5e7"),
        (0.123456, "0.1235"),
    ],
)
def test_a_tick(value, text):
    assert tick_text(value) == text


def test_a_linear_axis_has_no_offset_text():
    with canvas(3, 2) as figure:
        ax = figure.add_subplot()
        ax.plot([0, 1], [1e-9, 3e-9])
        plain_ticks(ax.yaxis)
        figure.draw_without_rendering()
        assert ax.yaxis.get_offset_text().get_text() == ""
        assert "1e-9" in [label.get_text() for label in ax.get_yticklabels()]


def test_a_picture_has_its_size_and_its_dots():
    with canvas(3, 2) as figure:
        png = picture(figure)
    assert int.from_bytes(png[16:20], "big") == 3 * DPI
    assert DPI >= 200


def test_what_users_wrote_is_neither_mathematics_nor_a_warning():
    with canvas(3, 2) as figure, warnings.catch_warnings():
        warnings.simplefilter("error", SyntaxWarning)
        figure.suptitle("$x^{$ 学习 🙂 <b>&")
        assert picture(figure)[:4] == b"\x89PNG"


def test_the_form_is_left_behind():
    import matplotlib

    before = dict(matplotlib.rcParams)
    with canvas(3, 2):
        assert matplotlib.rcParams["text.parse_math"] is False
    assert dict(matplotlib.rcParams) == before
