"""curves.png of one run: its scores in training and validation, over epochs.

Takes the records of metrics.jsonl; writes one PNG. Side effects: the file only (no pyplot, no display).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpctrain.report import palette
from hpctrain.report.canvas import FULL, canvas, legend_below, picture, plain_ticks
from hpctrain.storage.json_files import replace_bytes
from hpctrain.storage.records import TrainRecord, ValidationRecord

# Training is a line, which has many points; validation has markers, and may have one point.
_LOOKS: dict[str, dict[str, Any]] = {
    "train": {"color": palette.BLUE, "lw": 1},
    "validation": {"color": palette.VERMILLION, "marker": "o", "ms": 3.5, "ls": "--"},
}


def draw_curves(
    train: Sequence[TrainRecord], validation: Sequence[ValidationRecord], path: Path, title: str
) -> None:
    """Draw one panel per score, with both kinds of records in each. Nothing is drawn if there is no score yet.

    Values that are not finite are left out. Raises OSError.
    """
    last = (validation or train)[-1:]
    names = list(last[0].scores) if last else []
    if not names:
        return
    with canvas(max(FULL, 3.2 * len(names)) if len(names) > 1 else FULL / 2, 3.0) as figure:
        panels = figure.subplots(1, len(names), squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            for records in (train, validation):
                points = [
                    (r.epoch, r.scores[name]) for r in records if math.isfinite(r.scores.get(name, math.nan))
                ]
                if points:
                    kind = records[0].kind
                    axes.plot(*zip(*points, strict=True), label=kind, **_LOOKS[kind])
            axes.set_xlabel("epoch")
            axes.set_ylabel(name)
            plain_ticks(axes.xaxis)
            plain_ticks(axes.yaxis)
        legend_below(figure, panels)
        figure.suptitle(title)
        drawn = picture(figure)
    replace_bytes(path, drawn)
