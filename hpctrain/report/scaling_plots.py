"""Pictures of scaling: throughput and efficiency over the number of GPUs, and what a step's time is spent on.

Takes plain sequences, returns PNG bytes; no display, no pyplot. Axes of GPU counts and throughput are logarithmic, so
ideal scaling is a straight line.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpctrain.errors import UserError

DPI = 110
_COLOURS = {
    "compute": "#4878a8", "data": "#8cb369", "exposed": "#d1495b", "straggler": "#edae49", "checkpoint": "#7a5195",
    "other": "#b8bec6",
}  # fmt: skip


@dataclass(frozen=True)
class Series:
    """One curve over the number of GPUs (`x`); `low` and `high` are the bounds of its interval, if it has one."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    measured: bool = True


def scaling(
    rates: Sequence[Series], efficiencies: Sequence[Series], base: tuple[float, float], limit: float | None
) -> bytes:
    """Returns a PNG with two panels: throughput and efficiency.

    Throughput has the ideal line through `base` (GPUs, samples/s) and, if `limit` is given, Amdahl's limit.
    """
    figure, axes = _figure(10, 4.2, 2)
    left, right = axes
    for series in rates:
        _draw(left, series)
    xs = sorted({x for s in rates for x in s.x})
    left.plot(xs, [base[1] * x / base[0] for x in xs], "--", color="#8a949e", lw=1, label="ideal")
    if limit is not None:
        left.axhline(limit, ls=":", color="#d1495b", lw=1.2, label="Amdahl's limit")
    left.set_xscale("log", base=2)
    left.set_yscale("log")
    left.set_ylabel("samples/s")
    for series in efficiencies:
        _draw(right, series)
    right.axhline(1, ls="--", color="#8a949e", lw=1)
    right.axhline(0.7, ls=":", color="#8a949e", lw=1, label="70 %")
    right.set_xscale("log", base=2)
    right.set_ylim(bottom=0)
    right.set_ylabel("efficiency")
    for ax in axes:
        ax.set_xlabel("GPUs")
        ax.set_xticks(xs, [f"{x:g}" for x in xs])
        ax.minorticks_off() if ax is right else None
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    return _png(figure)


def split(
    gpus: Sequence[int], parts: Mapping[str, Sequence[float]], hidden_s: Sequence[float | None]
) -> bytes:
    """Returns a PNG with a bar per GPU count: the parts of a step in ms; hidden communication is hatched beside it."""
    figure, axes = _figure(7, 3.8, 1)
    ax = axes[0]
    bottom = [0.0] * len(gpus)
    places = range(len(gpus))
    for name, seconds in parts.items():
        heights = [1e3 * s for s in seconds]
        ax.bar(places, heights, 0.55, bottom=bottom, label=name, color=_COLOURS.get(name))
        bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
    beside = [(p + 0.36, 1e3 * h) for p, h in zip(places, hidden_s, strict=True) if h]
    if beside:
        ax.bar(
            [p for p, _ in beside], [h for _, h in beside], 0.12, label="hidden communication",
            facecolor="none", edgecolor="#d1495b", hatch="////",
        )  # fmt: skip
    ax.set_xticks(list(places), [str(g) for g in gpus])
    ax.set_xlabel("GPUs")
    ax.set_ylabel("ms per step")
    ax.legend(fontsize=8)
    ax.grid(alpha=0.3, axis="y")
    return _png(figure)


def write(flag: str, path: Path, png: bytes) -> None:
    """Writes the picture to a file. Raises UserError, naming the flag, if the file cannot be written."""
    try:
        path.write_bytes(png)
    except OSError as error:
        raise UserError(flag, path, f"cannot be written ({error.strerror})") from None


def _draw(ax: Any, series: Series) -> None:
    if series.measured:
        errors = None
        if series.low:
            below = [y - v for y, v in zip(series.y, series.low, strict=True)]
            above = [v - y for y, v in zip(series.y, series.high, strict=True)]
            errors = [below, above]
        ax.errorbar(series.x, series.y, yerr=errors, fmt="o-", ms=5, capsize=3, label=series.name)
        return
    line = ax.plot(series.x, series.y, "-.", lw=1.4, label=series.name)[0]
    if series.low:
        ax.fill_between(series.x, series.low, series.high, alpha=0.2, color=line.get_color())


def _figure(width: float, height: float, columns: int) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
