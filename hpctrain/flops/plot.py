"""Pictures of a count's document: bars per layer, and the roofline of a device. Takes a document, writes a file.

PNG, SVG or PDF by the file's ending; replaced atomically. Side effects: the file only (no display).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from hpctrain.errors import UserError
from hpctrain.flops.document import Document, LowerBound, Row
from hpctrain.report import palette
from hpctrain.report.canvas import FULL, canvas, legend_above, picture
from hpctrain.report.numbers import short
from hpctrain.report.table import shortened
from hpctrain.storage.json_files import replace_bytes

SUFFIXES = (".png", ".svg", ".pdf")
MOST_BARS = 60
NAMED = 4  # layers on the roofline
LONGEST = 32  # letters of a layer's name
Pass = Literal["forward_flops", "weight_grad_flops", "input_grad_flops"]
PASSES: dict[Pass, str] = {
    "forward_flops": "forward",
    "weight_grad_flops": "weights' gradient",
    "input_grad_flops": "inputs' gradient",
}


def check(path: Path) -> None:
    """Raises UserError if no picture can be written to `path`."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError("--plot", path, f"the name must end in {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise UserError("--plot", path, "its folder does not exist")


def draw(document: Document, path: Path) -> None:
    """Writes the picture to `path`. Raises OSError."""
    bounded = "lower_bound" in document
    rows = [row for row in document["layers"] if any(row[key] for key in PASSES)]
    bars = _merged([(row["name"], [row[key] for key in PASSES]) for row in rows])
    height = 1.9 + 0.17 * max(8, len(bars))
    with canvas(2 * FULL if bounded else FULL, height) as figure:
        panels = figure.subplots(1, 1 + bounded, squeeze=False)[0]
        _bars(panels[0], bars)
        if bounded:
            _roofline(panels[1], rows, document["lower_bound"])
        convention = document["convention"].split(":")[0]
        figure.suptitle(f"{document['model']}, one {document['unit']} ({convention})")
        drawn = picture(figure, path.suffix[1:].lower())
    replace_bytes(path, drawn)


Bar = tuple[str, list[float]]  # a layer's name, and the operations of each of PASSES


def _merged(bars: list[Bar]) -> list[Bar]:
    """Returns at most MOST_BARS bars, if possible: layers are added up by the outer parts of their names."""
    depth = max((name.count(".") for name, _ in bars), default=0)
    while len(bars) > MOST_BARS and depth > 0:
        merged: dict[str, list[float]] = {}
        for name, lengths in bars:
            outer = ".".join(name.split(".")[:depth])
            so_far = merged.get(outer, [0.0] * len(PASSES))
            merged[outer] = [a + b for a, b in zip(so_far, lengths, strict=True)]
        bars, depth = list(merged.items()), depth - 1
    return bars


def _bars(axes: Any, bars: list[Bar]) -> None:
    left = [0.0] * len(bars)
    for k, (label, look) in enumerate(zip(PASSES.values(), palette.SERIES, strict=False)):
        widths = [lengths[k] for _, lengths in bars]
        axes.barh(range(len(bars)), widths, left=left, label=label, color=look.colour, hatch=look.hatch,
                  edgecolor="white", lw=0.4)  # fmt: skip
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(bars)), [shortened(name, LONGEST) for name, _ in bars], fontsize=7)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlabel("operations")
    axes.xaxis.set_major_formatter(lambda value, _: short(value))
    axes.grid(visible=False, axis="y")
    legend_above(axes)


def _roofline(axes: Any, rows: list[Row], bound: LowerBound) -> None:
    """Draws each layer at its arithmetic intensity and at the rate that the roofline allows: an area grows with the
    layer's operations, and the largest ones have their names."""
    peak, bandwidth = bound["peak_flops_per_s"], bound["bytes_per_s"]
    points = [row for row in rows if row["flops_per_byte"] > 0]
    ridge = peak / bandwidth
    reach = [row["flops_per_byte"] for row in points] + [ridge / 30, ridge * 3]
    ends = [min(reach), ridge, max(reach)]
    axes.plot(ends, [min(peak, x * bandwidth) for x in ends], color=palette.BLACK, lw=1, zorder=1)
    largest = max((_operations(row) for row in points), default=1.0)
    for kind, colour, marker in (("compute", palette.VERMILLION, "s"), ("memory", palette.BLUE, "o")):
        own = [row for row in points if row["bound_by"] == kind]
        xs = [row["flops_per_byte"] for row in own]
        sizes = [12 + 90 * _operations(row) / largest for row in own]
        axes.scatter(
            xs, [min(peak, x * bandwidth) for x in xs], s=sizes, color=colour, marker=marker, alpha=0.6,
            edgecolors="white", lw=0.4, label=f"{kind}-bound: {len(own)}",
        )  # fmt: skip
    for n, row in enumerate(sorted(points, key=_operations, reverse=True)[:NAMED]):
        x = row["flops_per_byte"]
        axes.annotate(
            shortened(row["name"], LONGEST), (x, min(peak, x * bandwidth)), xytext=(-10, -22 - 13 * n), fontsize=7,
            textcoords="offset points", ha="right", arrowprops={"arrowstyle": "-", "color": palette.GREY, "lw": 0.6},
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: short(value))
    axes.minorticks_off()
    axes.set_xlabel("FLOPs per byte")
    axes.set_ylabel("attainable FLOP/s")
    axes.text(0.99, 0.02, bound["device"], transform=axes.transAxes, ha="right")
    legend_above(axes)


def _operations(row: Row) -> float:
    return float(sum(row[key] for key in PASSES))
