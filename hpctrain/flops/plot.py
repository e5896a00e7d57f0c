"""Pictures of a count's document: bars per layer, and the roofline of a device. Takes a document, writes a file.

PNG, SVG or PDF by the file's ending; replaced atomically. Side effects: the file only (no display).
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

from hpctrain.errors import UserError
from hpctrain.flops.document import Document, LowerBound, Row
from hpctrain.report.numbers import short
from hpctrain.storage.json_files import replace_bytes

SUFFIXES = (".png", ".svg", ".pdf")
MOST_BARS = 60
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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bounded = "lower_bound" in document
    rows = [row for row in document["layers"] if any(row[key] for key in PASSES)]
    bars = _merged([(row["name"], [row[key] for key in PASSES]) for row in rows])
    height = 1.6 + 0.17 * max(8, len(bars))
    figure = Figure(figsize=(14 if bounded else 8, height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 1 + bounded, squeeze=False)[0]
    _bars(panels[0], bars)
    if bounded:
        _roofline(panels[1], rows, document["lower_bound"])
    figure.suptitle(
        f"{document['model']}, one {document['unit']} ({document['convention'].split(':')[0]})", fontsize=10
    )
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format=path.suffix[1:].lower())
    replace_bytes(path, picture.getvalue())


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
    for k, label in enumerate(PASSES.values()):
        widths = [lengths[k] for _, lengths in bars]
        axes.barh(range(len(bars)), widths, left=left, label=label)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("operations")
    axes.xaxis.set_major_formatter(lambda value, _: short(value))
    axes.legend(fontsize=8)
    axes.grid(axis="x", alpha=0.3)


def _roofline(axes: Any, rows: list[Row], bound: LowerBound) -> None:
    """Draws each layer at its arithmetic intensity and at the rate that the roofline allows."""
    peak, bandwidth = bound["peak_flops_per_s"], bound["bytes_per_s"]
    points = [row for row in rows if row["flops_per_byte"] > 0]
    ridge = peak / bandwidth
    reach = [row["flops_per_byte"] for row in points] + [ridge / 100, ridge * 10]
    ends = [min(reach), ridge, max(reach)]
    axes.plot(ends, [min(peak, x * bandwidth) for x in ends], color="black", lw=1)
    for kind, colour in (("compute", "tab:red"), ("memory", "tab:blue")):
        own = [row for row in points if row["bound_by"] == kind]
        xs = [row["flops_per_byte"] for row in own]
        axes.scatter(
            xs, [min(peak, x * bandwidth) for x in xs], s=18, color=colour, label=f"{kind}-bound: {len(own)}"
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("FLOPs per byte")
    axes.set_ylabel("attainable FLOP/s")
    axes.set_title(bound["device"], fontsize=9)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
