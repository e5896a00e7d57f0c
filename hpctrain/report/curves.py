"""curves.png of one run: loss and metric, training and validation, over epochs.

Takes the records of metrics.jsonl; writes one PNG. Side effects: the file only (no pyplot, no display).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Figures of a record that are no scores of the task.
NOT_SCORES = {
    *("kind", "attempt", "time", "step", "epoch", "samples", "lr", "reason"),
    *(
        "samples_per_s",
        "gflop_per_s",
        "flops",
        "mfu",
        "roofline_share",
        "window_s",
        "window_steps",
        "step_ms",
    ),
}


def scores_of(record: dict[str, Any]) -> dict[str, float]:
    """Loss and metrics of a record, without what says where and how fast."""
    return {k: v for k, v in record.items() if k not in NOT_SCORES}


def draw_curves(records: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """One panel a score, both splits in each. Nothing is drawn where there are no records yet."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    splits = {kind: [r for r in records if r["kind"] == kind] for kind in ("train", "validation")}
    names = list(scores_of((splits["validation"] or splits["train"] or [{}])[-1]))
    if not names:
        return
    figure = Figure(figsize=(4.2 * len(names), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for kind, style in (("train", {"alpha": 0.7, "lw": 1}), ("validation", {"marker": "o", "ms": 4})):
            points = [(r["epoch"], r[name]) for r in splits[kind] if name in r]
            if points:
                axes.plot(*zip(*points, strict=True), label=kind, **style)
        axes.set_xlabel("epoch")
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title, fontsize=10)
    draft = path.with_suffix(".tmp.png")
    figure.savefig(draft, dpi=120)
    draft.replace(path)
