"""The form of every figure: size, type, resolution, ticks as plain numbers. Matplotlib without pyplot or a display.

A figure is 7.2 inches wide, the width of two columns of a journal, or half of that, so that its text (7 to 10 points)
stays as it is on paper and on a page. What is drawn is text of users: a dollar sign is not mathematics.
"""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hpctrain.report import palette

DPI = 200  # dots per inch of PNGs
FULL = 7.2  # inches: both columns

STYLE: dict[Any, Any] = {
    "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8,
    "legend.fontsize": 8, "figure.titlesize": 10, "text.parse_math": False, "axes.grid": True, "grid.alpha": 0.3,
    "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 1.4,
    "lines.markersize": 4, "axes.formatter.useoffset": False, "legend.frameon": False, "pdf.fonttype": 42,
    "hatch.linewidth": 0.6,
}  # fmt: skip


@contextmanager
def canvas(width: float, height: float) -> Iterator[Any]:
    """Yields a figure of this size in inches; all that is drawn inside has the project's form."""
    import matplotlib
    from cycler import cycler
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cycle = cycler(color=[look.colour for look in palette.SERIES])
    with matplotlib.rc_context(STYLE | {"axes.prop_cycle": cycle}), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph .* missing"
        )  # an empty box stands for a letter without a font
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def picture(figure: Any, kind: str = "png") -> bytes:
    """Returns the figure as a file of this kind: png, svg or pdf. Call it inside `canvas`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=DPI)
    return buffer.getvalue()


def legend_above(ax: Any, columns: int = 4) -> None:
    """Puts the legend between the title and the axes, where it cannot cover data."""
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2, columnspacing=1.2)


def legend_below(figure: Any, panels: Sequence[Any], columns: int = 5) -> None:
    """Puts one legend of all panels below them, where it cannot cover data."""
    found = {
        label: handle for ax in panels for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns)


def plain_ticks(axis: Any) -> None:
    """Makes a linear axis of a figure write its ticks as `tick_texts`: no offsets, no common exponent."""
    from matplotlib.ticker import Formatter

    class Plain(Formatter):
        def format_ticks(self, values: Sequence[float]) -> list[str]:
            return tick_texts([float(v) for v in values])

        def __call__(self, x: float, pos: int | None = None) -> str:
            return tick_text(x)

    axis.set_major_formatter(Plain())


def tick_texts(values: Sequence[float]) -> list[str]:
    """Returns ticks as plain text with the same decimals, as few as keep each of them exact; `tick_text` of numbers
    that are too small or too large for that."""
    largest = max(map(abs, values), default=0.0)
    if not 1e-3 <= largest < 1e6:
        return [tick_text(v) for v in values]
    ordered = sorted(set(values))
    step = min((b - a for a, b in itertools.pairwise(ordered)), default=largest)
    decimals = next((d for d in range(10) if all(abs(v - round(v, d)) < step / 1000 for v in values)), 10)
    return [f"{v + 0.0:,.{decimals}f}" for v in values]


def tick_text(value: float) -> str:
    """Returns one number as plain text: 0.001, 10,000, 3e-4."""
    if value and not 1e-3 <= abs(value) < 1e6:
        digits, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"
