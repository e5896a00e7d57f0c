"""What a run of a study reached: the metric, read from the run's own records. Reads files only, no torch."""

from __future__ import annotations

import math
from typing import Any

from hpctrain.run_dir import RunDir


def score(run: RunDir, metric: str, epochs: float | None = None) -> float | None:
    """The metric of the last validation, or of that after `epochs`; None where there is none or it is not finite."""
    found = [r for r in run.read_metrics("validation") if epochs is None or r.get("epoch") == epochs]
    value = found[-1].get(metric) if found else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def epochs_done(run: RunDir) -> float:
    records = run.read_metrics("validation")
    return float(records[-1].get("epoch", 0.0)) if records else 0.0


def facts(run: RunDir, metric: str, epochs: float | None = None) -> dict[str, Any]:
    """For the record of how a piece of work ended."""
    state = run.read_state()
    return {
        "value": score(run, metric, epochs), "epochs": epochs_done(run), "phase": state.get("phase"),
        "reason": state.get("reason"), "detail": state.get("detail"),
    }  # fmt: skip
