"""What the runs of a scaling study measured: from their own files to `scaling.Point`s.

Takes the study's folder and its plan (scaling.json); reads configurations, states, metrics.jsonl and
profile.json. Seconds. No torch, no Slurm. A run that failed, or has not ended, is a named gap.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpctrain.errors import UserError, nearest
from hpctrain.run_dir import RunDir, read_json, replace_text
from hpctrain.studies.scaling import Point, Repeat

PLAN = "scaling.json"

# The loop's parts (training/clock.py) under this report's names.
_PART_OF = {
    "data": "data",
    "forward": "compute",
    "backward": "compute",
    "optimizer": "compute",
    "allreduce": "exposed",
    "checkpoint": "checkpoint",
    "other": "other",
}


def is_scaling(study: Path) -> bool:
    return (study / PLAN).is_file()


def read_plan(study: Path) -> dict[str, Any]:
    """What `hpctrain scale` planned. Raises UserError where the folder is not a scaling study."""
    plan = read_json(study / PLAN)
    if plan is None:
        names = [p.parent.name for p in study.parent.glob(f"*/{PLAN}")]
        raise UserError("study", study.name, "is no scaling study", nearest(study.name, names))
    return plan


def write_plan(study: Path, facts: Mapping[str, Any], runs: Iterable[Mapping[str, Any]]) -> None:
    """Add runs to the study's plan. Raises UserError where it was begun in another mode."""
    before = read_json(study / PLAN) or {}
    if before and before["mode"] != facts["mode"]:
        raise UserError(
            "scaling.mode",
            facts["mode"],
            f"study {study.name} is {before['mode']}: another run.study makes a new one",
        )
    known = {run["run"]: run for run in [*before.get("runs", []), *runs]}
    replace_text(study / PLAN, json.dumps({**before, **facts, "runs": list(known.values())}))


def points(study: Path, plan: Mapping[str, Any], data: str) -> list[Point]:
    """The study's points for one kind of data ("own", "synthetic"), from the smallest."""
    found = []
    chosen = [run for run in plan["runs"] if run["data"] == data]
    for gpus in sorted({run["gpus"] for run in chosen}):
        of_point = sorted((r for r in chosen if r["gpus"] == gpus), key=lambda r: r["repeat"])
        repeats, missing = [], []
        for facts in of_point:
            run = RunDir(study / facts["run"])
            state = run.read_state()
            measured = repeat(run) if state.get("phase") == "done" else None
            if measured is None:
                why = state.get("reason") or state.get("phase") or "never submitted"
                missing.append(f"{facts['run']}: {why}")
            else:
                repeats.append(measured)
        first = of_point[0]
        found.append(Point(gpus, first["nodes"], first["batch"], tuple(repeats), tuple(missing)))
    return found


def repeat(run: RunDir) -> Repeat | None:
    """One run's figures, without its warm-up; None where it has none."""
    values = run.read_config()
    window = values["train"]["log_every"]
    warm = window * warmup_windows(run.path.parent)
    records = [r for r in run.read_metrics("train") if r["step"] > warm and not r.get("cut")]
    steps = sum(r["window_steps"] for r in records)
    if not steps:
        return None
    total_s = sum(r["window_s"] for r in records)
    parts_s: dict[str, float] = {}
    for part, name in _PART_OF.items():
        spent_s = sum(r["step_ms"].get(part, 0.0) * r["window_steps"] for r in records) / steps / 1e3
        parts_s[name] = parts_s.get(name, 0.0) + spent_s
    profile = run.read_profile()
    hidden_s = None
    if profile and profile["ranks"] > 1:
        parts_s["straggler"] = min(parts_s["exposed"], straggler_s(profile))
        parts_s["exposed"] -= parts_s["straggler"]
        hidden_s = max(0.0, statistics.fmean(profile["exchange_s"]) - parts_s["exposed"])
    return Repeat(
        total_s / steps,
        sum(r["samples_per_s"] * r["window_s"] for r in records) / total_s,
        parts_s,
        hidden_s,
        _mean([r.get("gflop_per_s") for r in records]),
        _mean([r.get("mfu") for r in records]),
    )


def warmup_windows(study: Path) -> int:
    return int((read_json(study / PLAN) or {}).get("warmup_windows", 1))


def straggler_s(profile: Mapping[str, Any]) -> float:
    """How long rank 0, whose clock the records are, waits for the slowest rank's computing, on average."""
    own, *others = profile["computing"][str(profile["batch_size"])]["step_s"]
    return statistics.fmean([max(each) - each[0] for each in zip(own, *others, strict=True)])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return statistics.fmean(known) if known else None
