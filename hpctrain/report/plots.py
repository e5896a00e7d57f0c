"""Pictures of a study: learning curves, parallel coordinates, slices, bars. PNG bytes, no display, no pyplot.

Takes plain sequences. An axis holds numbers or names; if a value is not a number, all of them count as names.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

DPI = 110
GREY = "#8a949e"


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def _colours(values: Sequence[float | None]) -> tuple[list[Any], Any]:
    """Returns one colour per value and the colour bar's mapping; missing values are grey."""
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    known = [v for v in values if v is not None]
    norm = Normalize(min(known, default=0.0), max(known, default=1.0))
    scale = ScalarMappable(norm, matplotlib.colormaps["viridis"])
    return [GREY if v is None else scale.to_rgba(np.array(v)) for v in values], scale


def learning_curves(
    curves: Sequence[Sequence[tuple[float, float]]], values: Sequence[float | None], best: int, name: str
) -> bytes:
    """Returns a PNG with one line per run, coloured by its score; the best is on top."""
    from matplotlib.collections import LineCollection

    figure, ax = _figure(8, 4)
    colours, scale = _colours(values)
    order = [i for i in range(len(curves)) if curves[i] and i != best]
    ax.add_collection(
        LineCollection([curves[i] for i in order], colors=[colours[i] for i in order], lw=0.8, alpha=0.6)
    )
    alone = [curves[i][0] for i in order if len(curves[i]) == 1]
    if alone:
        ax.plot(*zip(*alone, strict=True), ".", color=GREY)
    if curves[best]:
        ax.plot(
            *zip(*curves[best], strict=True),
            color="#d1495b",
            lw=2,
            marker="o",
            ms=3,
            label="the best setting",
        )
        ax.legend(loc="best")
    ax.autoscale_view()
    ax.set_xlabel("epoch")
    ax.set_ylabel(f"validation {name}")
    ax.grid(alpha=0.3)
    figure.colorbar(scale, ax=ax, label=f"{name} reached")
    return _png(figure)


def _places(values: Sequence[Any]) -> tuple[np.ndarray[Any, Any], list[str] | None, bool]:
    """Returns (positions on an axis, names or None, whether a logarithmic scale suits).

    Numbers are their own positions; names are evenly spaced, in alphabetical order.
    """
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        numbers = np.array(values, dtype=float)
        wide = numbers.min() > 0 and numbers.max() / numbers.min() >= 30
        return numbers, None, bool(wide)
    names = sorted({str(v) for v in values})
    return np.array([names.index(str(v)) for v in values], dtype=float), names, False


def parallel_coordinates(
    params: Mapping[str, Sequence[Any]], values: Sequence[float], name: str, higher_is_better: bool
) -> bytes:
    """Returns a PNG with one line per run across all swept settings and the metric; the best runs are drawn last."""
    from matplotlib.collections import LineCollection

    axes_names = [*params, name]
    columns = [_places(values) for values in (*params.values(), values)]
    scaled = []
    for places, _, wide in columns:
        placed = np.log(places) if wide else places
        low, high = placed.min(), placed.max()
        scaled.append((placed - low) / (high - low) if high > low else np.full_like(placed, 0.5))
    figure, ax = _figure(min(11.0, max(6.0, 1.8 * len(axes_names))), 4)
    colours, scale = _colours(values)
    order = np.argsort(values)
    order = order if higher_is_better else order[::-1]
    lines = [[(x, column[i]) for x, column in enumerate(scaled)] for i in order]
    ax.add_collection(LineCollection(lines, colors=[colours[i] for i in order], lw=1, alpha=0.6))
    for x, (places, names, wide) in enumerate(columns):
        ax.axvline(x, color="#444", lw=0.8)
        ticks = _ticks(places, names, wide)
        for y, text in ticks:
            ax.annotate(text, (x, y), xytext=(4, 0), textcoords="offset points", fontsize=8, va="center",
                        bbox={"fc": "white", "ec": "none", "alpha": 0.75, "pad": 0.8})  # fmt: skip
    ax.set_xticks(range(len(axes_names)), axes_names, fontsize=9)
    ax.set_yticks([])
    ax.set_xlim(-0.1, len(axes_names) - 0.5)
    ax.set_ylim(-0.05, 1.05)
    figure.colorbar(scale, ax=ax, label=name)
    return _png(figure)


def _ticks(places: np.ndarray[Any, Any], names: list[str] | None, wide: bool) -> list[tuple[float, str]]:
    """Returns a few (height from 0 to 1, label) pairs along an axis."""
    placed = np.log(places) if wide else places
    low, high = placed.min(), placed.max()
    if high == low:
        return [(0.5, names[0] if names else f"{places[0]:.3g}")]
    if names:
        return [(n / (len(names) - 1), text) for n, text in enumerate(names)]
    heights = np.linspace(0, 1, 4)
    at = low + heights * (high - low)
    return [(float(h), f"{v:.3g}") for h, v in zip(heights, np.exp(at) if wide else at, strict=True)]


def slice_of(key: str, given: Sequence[Any], values: Sequence[float], name: str) -> bytes:
    """Returns a PNG that plots the metric against one swept setting."""
    figure, ax = _figure(3.6, 2.8)
    places, names, wide = _places(given)
    jitter = np.random.default_rng(0).uniform(-0.12, 0.12, len(places)) if names else 0.0
    ax.scatter(places + jitter, values, s=12, alpha=0.6, color="#0b63c5", edgecolors="none")
    if names:
        ax.set_xticks(range(len(names)), names, fontsize=8, rotation=30 if len(names) > 4 else 0)
    if wide:
        ax.set_xscale("log")
    ax.set_xlabel(key, fontsize=9)
    ax.set_ylabel(name, fontsize=9)
    ax.grid(alpha=0.3)
    return _png(figure)


def bars(shares: Mapping[str, float], label: str) -> bytes:
    """Returns a PNG of named shares, the largest on top."""
    figure, ax = _figure(7, 0.7 + 0.4 * len(shares))
    ordered = sorted(shares.items(), key=lambda item: item[1])
    drawn = ax.barh([k for k, _ in ordered], [v for _, v in ordered], color="#0b63c5", height=0.6)
    ax.bar_label(drawn, fmt="{:.2f}", padding=3, fontsize=8)
    ax.set_xlabel(label)
    ax.spines[["top", "right"]].set_visible(False)
    ax.margins(x=0.12)
    return _png(figure)
