"""curves.png of one run: its scores in training and validation, over epochs.

Takes the records of metrics.jsonl; writes one PNG. Side effects: the file only (no pyplot, no display).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpctrain.storage.json_files import replace_bytes
from hpctrain.storage.records import TrainRecord, ValidationRecord

_STYLES: dict[str, dict[str, Any]] = {
    "train": {"alpha": 0.7, "lw": 1},
    "validation": {"marker": "o", "ms": 4},
}


def draw_curves(
    train: Sequence[TrainRecord], validation: Sequence[ValidationRecord], path: Path, title: str
) -> None:
    """Draw one panel per score, with both kinds of records in each. Nothing is drawn if there is no score yet.

    Raises OSError.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    last = (validation or train)[-1:]
    names = list(last[0].scores) if last else []
    if not names:
        return
    figure = Figure(figsize=(4.2 * len(names), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for records in (train, validation):
            points = [(r.epoch, r.scores[name]) for r in records if name in r.scores]
            if points:
                kind = records[0].kind
                axes.plot(*zip(*points, strict=True), label=kind, **_STYLES[kind])
        axes.set_xlabel("epoch")
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title, fontsize=10)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format="png")
    replace_bytes(path, picture.getvalue())
