"""Pictures of scaling: intervals stay on the axes, ticks are the GPU counts, legends are off the data."""

import pytest

from hpctrain.report.scaling_plots import LAW, PREDICTED, Series, scaling, split


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


@pytest.fixture
def panels(drawn):
    x = [1, 2, 4, 8]
    rate = Series(
        "measured", x, [500.0, 900, 1700, 3000], [400.0, -100, 1600, 2900], [600.0, 1900, 1800, 3100]
    )
    share = Series("measured", x, [1.0, 0.9, 0.85, 0.75], [1.0, -0.2, 0.8, 0.7], [1.0, 2.0, 0.9, 0.8])
    law = Series("Amdahl's law", x, [500, 950, 1650, 2900], look=LAW)
    model = Series("predicted", [8, 16], [3000, 5000], [2500, 4000], [3500, 6000], look=PREDICTED)
    scaling("Study s: strong scaling", [rate, law, model], [share], (1, 500))
    return drawn[0]


def test_titles_units_and_ticks(panels):
    left, right = panels.axes
    assert panels.get_suptitle() == "Study s: strong scaling"
    assert (left.get_xlabel(), left.get_ylabel(), right.get_ylabel()) == ("GPUs", "samples/s", "efficiency")
    assert ticks(left.xaxis) == ticks(right.xaxis) == ["1", "2", "4", "8", "16"]
    assert not any("^" in text or "times" in text for text in ticks(left.yaxis))
    assert left.yaxis.get_minorticklocs().size == 0


def test_intervals_end_on_the_axes(panels):
    left, right = panels.axes
    assert left.get_ylim()[1] > 8000, "the ideal line too"
    assert right.get_ylim()[1] >= 2.0
    assert right.get_ylim()[0] == 0


def test_one_legend_for_both_panels_below_them(panels):
    (legend,) = panels.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "ideal", "Amdahl's law", "predicted", "measured", "70 %"
    ]  # fmt: skip
    assert legend.get_window_extent().y1 <= min(ax.get_window_extent().y0 for ax in panels.axes)


def test_the_parts_of_a_step_add_up(drawn):
    split("Study s: the parts", [1, 2], {"compute": [0.5, 0.25], "exposed": [0.0, 0.1]}, [None, 0.05])
    ax = drawn[0].axes[0]
    tops = [max(bar.get_y() + bar.get_height() for group in ax.containers[:2] for bar in group if abs(bar.get_x() + 0.25 - n) < 0.1) for n in (0, 1)]  # fmt: skip # noqa: E501
    assert tops == pytest.approx([500, 350])
    assert ax.get_ylabel() == "ms per step"
    assert ax.containers[2][0].get_hatch()


def test_many_counts_have_some_ticks(drawn):
    x = [2**n for n in range(13)]
    one = Series("predicted", x, [100.0 * v for v in x], look=PREDICTED)
    scaling("s", [one], [Series("predicted", x, [1.0] * 13, look=PREDICTED)], (1, 100.0))
    assert len(ticks(drawn[0].axes[0].xaxis)) <= 8
