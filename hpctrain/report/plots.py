"""Pictures of a study: learning curves, parallel coordinates, slices, bars. PNG bytes, no display, no pyplot.

Takes plain sequences, and axes for the settings. The darkest runs are the best.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from hpctrain.report import palette
from hpctrain.report.axis import Axis, axis, round_numbers
from hpctrain.report.canvas import FULL, canvas, legend_above, picture, plain_ticks, tick_text, tick_texts

FAR = 50  # a value this many times further from the best than the middle one is drawn at the edge
WIDE = 30  # scores whose ratio is larger stand on a logarithmic axis


@dataclass(frozen=True)
class Scores:
    """The values of a score, and what of them a picture shows: from `low` to `high`; `log`: on a logarithmic axis.

    A single run that diverges does not hide the others: it is drawn at the edge.
    """

    name: str
    values: Sequence[float]
    higher_is_better: bool
    low: float
    high: float
    log: bool

    @property
    def beyond(self) -> int:
        """How many values are outside."""
        return sum(not self.low <= v <= self.high for v in self.values)

    def inside(self, value: float) -> float:
        """Returns the value, or the edge that is nearest to it."""
        return min(max(value, self.low), self.high)

    @property
    def remark(self) -> str:
        """Says how many runs are drawn at the edge; empty if none is."""
        count = self.beyond
        return f"; {count} run{'s' * (count > 1)} beyond the edge" if count else ""


def scores(name: str, values: Sequence[float], higher_is_better: bool) -> Scores:
    """Returns the scores with the part of the axis that a picture shows. `values` are finite, and at least one."""
    sign = -1.0 if higher_is_better else 1.0
    costs = sorted(sign * v for v in values)
    reach = FAR * (statistics.median(costs) - costs[0])
    worst = max(c for c in costs if c - costs[0] <= reach) if reach else costs[-1]
    low, high = sorted((sign * costs[0], sign * worst))
    return Scores(name, values, higher_is_better, low, high, low > 0 and high / low >= WIDE)


def learning_curves(
    curves: Sequence[Sequence[tuple[float, float]]], found: Scores, best: Set[int], title: str
) -> bytes:
    """Returns a PNG with one line per run, coloured by its score; those of the best setting, `best`, are on top."""
    from matplotlib.collections import LineCollection

    shown = [[(x, y) for x, y in curve if math.isfinite(y)] for curve in curves]
    points = [y for curve in shown for _, y in curve]
    part = scores(found.name, points, found.higher_is_better) if points else found
    with canvas(FULL, 3.6) as figure:
        ax = figure.add_subplot()
        colours, scale = _colours(found)
        order = [i for i in range(len(shown)) if shown[i] and i not in best]
        lw = 1.4 if len(order) <= 20 else 0.8
        lines = LineCollection(
            [shown[i] for i in order], colors=[colours[i] for i in order], lw=lw, alpha=0.8
        )
        ax.add_collection(lines)
        for i in (i for i in order if len(shown[i]) == 1):
            ax.plot(*shown[i][0], ".", color=colours[i], alpha=0.7)
        for n, i in enumerate(sorted(best)):
            label = f"the best setting: {len(best)} run{'s' * (len(best) > 1)}"
            ax.plot(*zip(*shown[i], strict=True), color=palette.BEST, lw=1.6, marker="o", ms=3,
                    label=label if n == 0 else None)  # fmt: skip
        ax.autoscale_view()
        _show_scores(ax, part)
        _epochs(ax, (float(x) for curve in shown for x, _ in curve))
        ax.set_xlabel("epoch")
        ax.set_ylabel(f"validation {found.name}")
        figure.suptitle(f"{title}{found.remark}")
        legend_above(ax)
        _colour_bar(figure, ax, scale, found)
        return picture(figure)


def parallel_coordinates(params: Mapping[str, Axis], found: Scores, title: str) -> bytes:
    """Returns a PNG with one line per run across all swept settings and the score; the best runs are drawn last."""
    from matplotlib.collections import LineCollection

    score = _score_axis(found)
    columns = [column.heights() for column in (*params.values(), score)]
    order = sorted(
        range(len(found.values)), key=lambda i: found.values[i], reverse=not found.higher_is_better
    )
    names = [*params, found.name]
    with canvas(FULL, 3.6) as figure:
        ax = figure.add_subplot()
        colours, scale = _colours(found)
        lines = [[(x, column[i]) for x, (column, _) in enumerate(columns)] for i in order]
        ax.add_collection(LineCollection(lines, colors=[colours[i] for i in order], lw=1, alpha=0.6))
        for x, (column, (_, heights)) in enumerate(zip((*params.values(), score), columns, strict=True)):
            ax.axvline(x, color=palette.BLACK, lw=0.8)
            for y, (_, text) in zip(heights, column.ticks, strict=True):
                ax.annotate(text, (x, y), xytext=(3, 0), textcoords="offset points", fontsize=7, va="center",
                            bbox={"fc": "white", "ec": "none", "alpha": 0.75, "pad": 0.6})  # fmt: skip
        crowded = sum(map(len, names)) > 60
        ax.set_xticks(
            range(len(names)), names, rotation=20 if crowded else 0, ha="right" if crowded else "center"
        )
        ax.set_yticks([])
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
        ax.set_xlim(-0.15, len(names) - 0.6)
        ax.set_ylim(-0.05, 1.05)
        figure.suptitle(f"{title}{found.remark}")
        _colour_bar(figure, ax, scale, found)
        return picture(figure)


def slice_of(key: str, swept: Axis, found: Scores) -> bytes:
    """Returns a PNG that plots the score against one swept setting, on the scale on which it was swept."""
    import numpy as np

    count = len(found.values)
    with canvas(3.5, 2.7) as figure:
        ax = figure.add_subplot()
        jitter = (
            np.random.default_rng(0).uniform(-0.12, 0.12, count)
            if swept.scale == "names"
            else np.zeros(count)
        )
        x = np.array(swept.places) + jitter
        y = np.array([found.inside(v) for v in found.values])
        inside = y == np.array(found.values)
        ax.scatter(x[inside], y[inside], s=12, alpha=0.6, color=palette.BLUE, edgecolors="none")
        ax.scatter(x[~inside], y[~inside], s=18, marker="v" if found.higher_is_better else "^", color=palette.BEST,
                   clip_on=False)  # fmt: skip
        if swept.scale == "log":
            ax.set_xscale("log")
        crowded = sum(len(text) for _, text in swept.ticks) > 36
        ax.set_xticks(*zip(*swept.ticks, strict=True), rotation=30 if crowded else 0,
                      ha="right" if crowded else "center")  # fmt: skip
        ax.minorticks_off()
        _show_scores(ax, found)
        ax.set_xlabel(key)
        ax.set_ylabel(found.name)
        figure.suptitle(f"{found.name} by {key.rpartition('.')[2]}{found.remark}", fontsize=9)
        return picture(figure)


def bars(shares: Mapping[str, float], title: str, label: str) -> bytes:
    """Returns a PNG of named shares, the largest on top."""
    with canvas(FULL, 1.1 + 0.32 * len(shares)) as figure:
        ax = figure.add_subplot()
        ordered = sorted(shares.items(), key=lambda item: item[1])
        drawn = ax.barh([k for k, _ in ordered], [v for _, v in ordered], color=palette.BLUE, height=0.6)
        ax.bar_label(drawn, fmt="{:.2f}", padding=3, fontsize=8)
        ax.set_xlabel(label)
        plain_ticks(ax.xaxis)
        ax.grid(visible=False, axis="y")
        ax.margins(x=0.1)
        figure.suptitle(title)
        return picture(figure)


def _score_axis(found: Scores) -> Axis:
    from matplotlib.ticker import MaxNLocator

    inside = [found.inside(v) for v in found.values]
    if found.high == found.low:
        ticks = [found.low]
    elif found.log:
        ticks = round_numbers(found.low, found.high)
    else:
        ticks = [
            float(t)
            for t in MaxNLocator(5).tick_values(found.low, found.high)
            if found.low <= t <= found.high
        ]
    texts = [tick_text(t) for t in ticks] if found.log else tick_texts(ticks)
    return Axis("log" if found.log else "linear", inside, list(zip(ticks, texts, strict=True)))


def _colours(found: Scores) -> tuple[list[Any], Any]:
    """Returns one colour per value, dark for good ones, and the colour bar's mapping."""
    import matplotlib
    import numpy as np
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm, Normalize

    norm = (LogNorm if found.log else Normalize)(found.low, found.high)
    scale = ScalarMappable(
        norm, matplotlib.colormaps[palette.SCORES + ("_r" if found.higher_is_better else "")]
    )
    return list(scale.to_rgba(np.array([found.inside(v) for v in found.values]))), scale


def _colour_bar(figure: Any, ax: Any, scale: Any, found: Scores) -> None:
    if found.high > found.low:
        bar = figure.colorbar(scale, ax=ax, label=f"{found.name} reached", pad=0.02)
        _show_scores(bar.ax, found, limits=False)


def _show_scores(ax: Any, found: Scores, limits: bool = True) -> None:
    """Gives the axis of scores its scale, its limits with a margin, and plain ticks."""
    low, high = found.low, found.high
    if found.log:
        if limits:
            ax.set_yscale("log")
            ax.set_ylim(low / (high / low) ** 0.05, high * (high / low) ** 0.05)
        ticks = round_numbers(low, high)
        ax.yaxis.set_ticks(ticks, [tick_text(t) for t in ticks])
        ax.yaxis.set_ticks([], minor=True)
        return
    if limits:
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
        ax.set_ylim(low - margin, high + margin)
    plain_ticks(ax.yaxis)


def _epochs(ax: Any, epochs: Iterable[float]) -> None:
    known = sorted(set(epochs))
    if known:
        ticks = axis([int(e) if e.is_integer() else e for e in known], "linear").ticks
        ax.set_xticks(*zip(*ticks, strict=True))
