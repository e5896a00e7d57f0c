"""Pictures of scaling: throughput and efficiency over the number of GPUs, and what a step's time is spent on.

Takes plain sequences, returns PNG bytes; no display, no pyplot. Axes of GPU counts and throughput are logarithmic, so
ideal scaling is a straight line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpctrain.errors import UserError
from hpctrain.report import palette
from hpctrain.report.axis import round_numbers
from hpctrain.report.canvas import FULL, canvas, legend_below, picture, plain_ticks, tick_text
from hpctrain.report.palette import Look

MEASURED = Look(palette.BLUE, "o", "-", "")
PREDICTED = Look(palette.ORANGE, "s", "--", "")
LAW = Look(palette.VERMILLION, "", ":", "")
PARTS = {
    "compute": Look(palette.BLUE, "", "", ""),
    "data": Look(palette.SKY, "", "", "..."),
    "exposed": Look(palette.VERMILLION, "", "", "///"),
    "straggler": Look(palette.ORANGE, "", "", "\\\\\\"),
    "checkpoint": Look(palette.GREEN, "", "", "xxx"),
    "other": Look(palette.GREY, "", "", ""),
}


@dataclass(frozen=True)
class Series:
    """One curve over the number of GPUs (`x`); `low` and `high` are the bounds of its interval, if it has one."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    look: Look = MEASURED


def scaling(
    title: str, rates: Sequence[Series], efficiencies: Sequence[Series], base: tuple[float, float]
) -> bytes:
    """Returns a PNG with two panels: throughput, with the ideal line through `base` (GPUs, samples/s); efficiency."""
    counts = sorted({x for s in rates for x in s.x})
    with canvas(FULL, 3.4) as figure:
        left, right = axes = figure.subplots(1, 2)
        ideal = [base[1] * x / base[0] for x in counts]
        left.plot(counts, ideal, "--", color=palette.GREY, lw=1, label="ideal")
        for ax, curves in ((left, rates), (right, efficiencies)):
            for series in curves:
                _draw(ax, series)
        left.set_yscale("log")
        drawn = [y for s in rates for y in (*s.y, *s.high)] + ideal
        # An interval may reach down to zero: its bar goes to the edge.
        low, high = min(y for s in rates for y in s.y), max(drawn)
        low, high = min(low, *ideal) / 1.4, high * 1.2
        left.set_ylim(low, high)
        ticks = round_numbers(low, high)
        left.set_yticks(ticks, [tick_text(t) for t in ticks])
        left.set_ylabel("samples/s")
        right.axhline(1, ls="--", color=palette.GREY, lw=1)
        right.axhline(0.7, ls=":", color=palette.BLACK, lw=1, label="70 %")
        right.set_ylim(0, 1.05 * max(1.0, *(y for s in efficiencies for y in (*s.y, *s.high))))
        right.set_ylabel("efficiency")
        plain_ticks(right.yaxis)
        for ax in axes:
            _gpus(ax, counts)
        legend_below(figure, axes)
        figure.suptitle(title)
        return picture(figure)


def split(
    title: str, gpus: Sequence[int], parts: Mapping[str, Sequence[float]], hidden_s: Sequence[float | None]
) -> bytes:
    """Returns a PNG with a bar per GPU count: the parts of a step in ms; beside it, communication that is hidden."""
    with canvas(FULL, 3.4) as figure:
        ax = figure.add_subplot()
        bottom = [0.0] * len(gpus)
        places = range(len(gpus))
        for name, seconds in parts.items():
            heights = [1e3 * s for s in seconds]
            look = PARTS[name]
            ax.bar(places, heights, 0.5, bottom=bottom, label=name, color=look.colour, hatch=look.hatch,
                   edgecolor="white", lw=0.5)  # fmt: skip
            bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
        beside = [(p + 0.34, 1e3 * h) for p, h in zip(places, hidden_s, strict=True) if h]
        if beside:
            ax.bar([p for p, _ in beside], [h for _, h in beside], 0.12, label="hidden communication",
                   facecolor="none", edgecolor=palette.VERMILLION, hatch="////")  # fmt: skip
        ax.set_xticks(list(places), [f"{g:,}" for g in gpus])
        ax.set_xlim(-0.6, max(len(gpus) - 0.4, 2.4))
        ax.set_xlabel("GPUs")
        ax.set_ylabel("ms per step")
        plain_ticks(ax.yaxis)
        ax.grid(visible=False, axis="x")
        legend_below(figure, [ax])
        figure.suptitle(title)
        return picture(figure)


def write(flag: str, path: Path, png: bytes) -> None:
    """Writes the picture to a file. Raises UserError, naming the flag, if the file cannot be written."""
    try:
        path.write_bytes(png)
    except OSError as error:
        raise UserError(flag, path, f"cannot be written ({error.strerror})") from None


def _draw(ax: Any, series: Series) -> None:
    look = series.look
    style = {"color": look.colour, "marker": look.marker, "ls": look.line, "label": series.name}
    if look is not MEASURED:
        ax.plot(series.x, series.y, **style, zorder=3)
        if series.low:
            ax.fill_between(series.x, series.low, series.high, alpha=0.2, color=look.colour, lw=0)
        return
    errors = None
    if series.low:
        below = [
            min(y, y - v) for y, v in zip(series.y, series.low, strict=True)
        ]  # neither is ever below zero
        above = [v - y for y, v in zip(series.y, series.high, strict=True)]
        errors = [below, above]
    ax.errorbar(series.x, series.y, yerr=errors, capsize=3, **style)


def _gpus(ax: Any, counts: Sequence[float]) -> None:
    """Makes a logarithmic axis of GPU counts, with ticks at the counts; of many, at some of them."""
    ax.set_xscale("log", base=2)
    some = list(counts)[:: -(-len(counts) // 8)]
    ax.set_xticks(some, [tick_text(x) for x in some])
    ax.minorticks_off()
    ax.set_xlabel("GPUs")
