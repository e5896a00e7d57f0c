"""Pictures of a study: what is drawn of the best setting, of a run that diverges, on which scale."""

import pytest
from matplotlib.colors import to_hex

from hpctrain.report import palette
from hpctrain.report.axis import axis
from hpctrain.report.plots import bars, learning_curves, parallel_coordinates, scores, slice_of

VALUES = [0.5, 0.9, 0.7, 0.85]
CURVES = [[(1.0, v / 2), (2.0, v)] for v in VALUES]


def title(figure):
    return figure.get_suptitle()


def test_every_seed_of_the_best_setting_is_marked(drawn):
    learning_curves(CURVES, scores("accuracy", VALUES, True), {1, 3}, "Study s")
    (figure,) = drawn
    ax = figure.axes[0]
    marked = [line for line in ax.lines if to_hex(line.get_color()) == palette.BEST]
    assert [list(line.get_ydata()) for line in marked] == [[0.45, 0.9], [0.425, 0.85]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["the best setting: 2 runs"]
    assert title(figure) == "Study s"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "validation accuracy")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2"], "no half epochs"


def test_the_legend_covers_no_data(drawn):
    learning_curves(CURVES, scores("accuracy", VALUES, True), {1}, "s")
    ax = drawn[0].axes[0]
    assert ax.get_legend().get_window_extent().y0 >= ax.get_window_extent().y1 - 1


@pytest.mark.parametrize(("higher_is_better", "best"), [(True, 0.9), (False, 0.5)])
def test_the_best_are_the_darkest(drawn, higher_is_better, best):
    found = scores("x", VALUES, higher_is_better)
    parallel_coordinates({"lr": axis([1, 2, 3, 4])}, found, "s")
    (lines,) = drawn[0].axes[0].collections
    lightness = [sum(colour[:3]) for colour in lines.get_colors()]
    assert lightness == sorted(lightness, reverse=True), "the best are drawn last, and darkest"
    assert drawn[0].axes[-1].get_ylabel() == "x reached"


@pytest.mark.parametrize(
    ("values", "higher_is_better", "low", "high", "beyond", "log"),
    [
        ([80.0, 90.0, 100.0, 1e30], False, 80, 100, 1, False),
        ([80.0, 90.0, 100.0], False, 80, 100, 0, False),
        ([0.1, 0.9, 0.95], True, 0.1, 0.95, 0, False),
        ([-2.4, -2.3, -2.2], False, -2.4, -2.2, 0, False),
        ([-1e9, 0.8, 0.9], True, 0.8, 0.9, 1, False),
        ([0.01, 0.2, 1.0], False, 0.01, 1.0, 0, True),
        ([0.7, 0.7, 0.7], True, 0.7, 0.7, 0, False),
        ([0.7], True, 0.7, 0.7, 0, False),
        ([0.7, 0.7, 0.7, 0.1], True, 0.1, 0.7, 0, False),
    ],
)
def test_a_run_that_diverges_hides_no_other(values, higher_is_better, low, high, beyond, log):
    found = scores("x", values, higher_is_better)
    assert (found.low, found.high, found.beyond, found.log) == (low, high, beyond, log)
    assert all(low <= found.inside(v) <= high for v in values)
    assert ("beyond the edge" in found.remark) == bool(beyond)


def test_a_slice_follows_the_scale(drawn):
    found = scores("loss", [3.0, 2.0, 1.0, 1.5], False)
    for given in ([0.001, 0.01, 0.1, 1.0], [1, 2, 3, 4], ["a", "b", None, True]):
        slice_of("optimizer.lr", axis(given), found)
    assert [figure.axes[0].get_xscale() for figure in drawn] == ["log", "linear", "linear"]
    ticks = [[label.get_text() for label in figure.axes[0].get_xticklabels()] for figure in drawn]
    assert ticks == [["0.001", "0.01", "0.1", "1"], ["1", "2", "3", "4"], ["None", "True", "a", "b"]]
    assert [title(figure) for figure in drawn] == ["loss by lr"] * 3
    assert drawn[0].axes[0].xaxis.get_minorticklocs().size == 0


def test_a_run_beyond_the_edge_is_marked_there(drawn):
    slice_of("lr", axis([1, 2, 3, 4]), scores("perplexity", [80.0, 90.0, 100.0, 1e30], False))
    ax = drawn[0].axes[0]
    inside, outside = ax.collections
    assert len(inside.get_offsets()) == 3
    assert [list(point) for point in outside.get_offsets()] == [[4, 100]]
    assert title(drawn[0]).endswith("; 1 run beyond the edge")


@pytest.mark.parametrize(
    "curves",
    [
        [[(1.0, 0.5)]],
        [[], [(1.0, float("nan")), (2.0, 0.5)]],
        [[(0.5, 0.1), (1.0, 0.2)], [(1.0, float("inf"))]],
    ],
)
def test_curves_of_odd_runs(drawn, curves):
    learning_curves(curves, scores("x", [0.5] * len(curves), True), {0} if curves[0] else {1}, "s")
    assert len(drawn) == 1


def test_one_value_one_run_and_long_names(drawn):
    found = scores("a_score_with_a_long_name", [0.5], True)
    slice_of("group.sub.setting", axis(["x" * 80]), found)
    parallel_coordinates({f"group.setting_{n}": axis([n]) for n in range(12)}, found, "s")
    bars({"a": 0.0, "b" * 60: 1.0}, "what matters", "share")
    assert [bool(title(figure)) for figure in drawn] == [True] * 3
