"""What became of runs, told from their own files first.

Takes run directories; gives one row a run. A run that says it is running but has not been heard of, and
whose process or job is gone, is LOST: the row says so instead of repeating what the run last wrote.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpctrain.launch import local
from hpctrain.run_dir import FINAL, RunDir, runs

# A rank 0 that has not written its heartbeat for this long is asked after.
SILENCE_S = 30.0


@dataclass(frozen=True)
class Row:
    """One run, as status shows it. `progress` is 0 to 1; `age_s` is since the last heartbeat."""

    study: str
    run: str
    phase: str
    reason: str | None
    detail: str | None
    attempt: int | None
    step: int | None
    progress: float | None
    scores: dict[str, float]
    job_id: str | None
    age_s: float | None


def row(run: RunDir, now_s: float) -> Row:
    state = run.read_state()
    phase, reason, detail = state.get("phase", "new"), state.get("reason"), state.get("detail")
    age_s = now_s - state["heartbeat"] if "heartbeat" in state else None
    if phase in ("running", "starting") and (age_s or 0) > SILENCE_S and not _alive(run):
        phase, reason, detail = "failed", "LOST", "no heartbeat, and no process of it is left"
    steps, step = state.get("total_steps"), state.get("step")
    scores = (state.get("summary") or {}).get("validation") or state.get("figures") or {}
    return Row(
        run.study, run.run_id, phase, reason, detail, state.get("attempt"), step,
        step / steps if steps and step is not None else None,
        {k: v for k, v in scores.items() if k in ("loss", "accuracy", "perplexity", "samples_per_s")},
        state.get("job_id"), age_s,
    )  # fmt: skip


def rows(root: Path, study: str | None, phase: str | None, name: str | None) -> list[Row]:
    """One row for each run that fits the filters."""
    now_s = time.time()
    found = (row(run, now_s) for run in runs(root, study) if name is None or name in run.run_id)
    return [r for r in found if phase is None or r.phase == phase]


def table(found: list[Row]) -> Any:
    """The rows as a rich table."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("run", "phase", "reason", "progress", "figures", "last heard of"):
        shown.add_column(column, overflow="fold")
    colours = {"done": "green", "failed": "red", "running": "cyan"}
    for r in found:
        figures = "  ".join(f"{k} {v:,.4g}" for k, v in r.scores.items())
        shown.add_row(
            f"{r.study}/{r.run}",
            f"[{colours.get(r.phase, 'yellow')}]{r.phase}[/]",
            r.reason or "",
            "" if r.progress is None else f"{100 * r.progress:.0f} %",
            figures,
            "" if r.age_s is None or r.phase in FINAL else f"{r.age_s:.0f} s ago",
        )
    return shown


def as_json(found: list[Row]) -> list[dict[str, Any]]:
    return [asdict(r) for r in found]


def _alive(run: RunDir) -> bool:
    attempts = run.attempts()
    return any(local.is_rank(who) for who in (run.rank_files(attempts[-1]) if attempts else []))
