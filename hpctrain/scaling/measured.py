"""Turns the files of a scaling study's runs into `laws.Point`s.

Takes the study's folder and its plan (scaling.json); reads configurations, states, metrics.jsonl and
profile.json. Times are seconds. No torch, no Slurm. A run that failed or has not ended is reported as missing.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from hpctrain.errors import Foreign, UserError, nearest
from hpctrain.scaling import horovod_timeline
from hpctrain.scaling.comm_settings import CommSetting
from hpctrain.scaling.horovod_timeline import Timeline
from hpctrain.scaling.laws import Mode, Point, Repeat
from hpctrain.scaling.plan import Kind, PlannedRun
from hpctrain.scaling.predict import own_batch
from hpctrain.storage.json_files import load, replace_text
from hpctrain.storage.profile import Profile
from hpctrain.storage.records import train_records
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Phase, RunState

PLAN = "scaling.json"

# The loop's parts (training/step_timer.py) by this report's names.
_PART_OF = {
    "data": "data",
    "forward": "compute",
    "backward": "compute",
    "optimizer": "compute",
    "allreduce": "exposed",
    "checkpoint": "checkpoint",
    "other": "other",
}


class StudyFacts(TypedDict):
    """What a study measures. `config` and `settings` are its Config and ScalingConfig as plain containers."""

    mode: Mode
    warmup_windows: int
    cluster: str
    epochs: float | None
    train_samples: int | None
    command: str
    config: dict[str, Any]
    settings: dict[str, Any]
    experiment: str


class StudyPlan(StudyFacts):
    """scaling.json: the facts of the newest `hpctrain scale`, and the runs of all calls."""

    runs: list[PlannedRun]


def is_scaling(study: Path) -> bool:
    """Returns whether the folder is that of a scaling study."""
    return os.path.lexists(study / PLAN)  # of any kind: read_plan says what is wrong with it


def read_plan(study: Path) -> StudyPlan:
    """Returns what `hpctrain scale` planned. Raises UserError if the folder is not a scaling study; Damaged."""
    plan = load(study / PLAN, StudyPlan)
    if plan is None:
        names = [p.parent.name for p in study.parent.glob(f"*/{PLAN}")]
        raise UserError("study", study.name, "is not a scaling study", nearest(study.name, names))
    return plan


def write_plan(study: Path, facts: StudyFacts, runs: Iterable[PlannedRun]) -> None:
    """Adds runs to the study's plan. Raises UserError if the study was begun in another mode; Damaged."""
    before = load(study / PLAN, StudyPlan)
    if before and before["mode"] != facts["mode"]:
        raise UserError(
            "scaling.mode",
            facts["mode"],
            f"study {study.name} is {before['mode']}: another run.study makes a new one",
        )
    known = {run["run"]: run for run in [*(before["runs"] if before else ()), *runs]}
    replace_text(study / PLAN, json.dumps({**(before or {}), **facts, "runs": list(known.values())}))


def points(study: Path, plan: StudyPlan, data: Kind, job_j: Mapping[str, float] | None = None) -> list[Point]:
    """Returns the study's points for one kind of data, smallest first."""
    chosen = [run for run in plan["runs"] if run["data"] == data and not run.get("knob")]
    counts = sorted({run["gpus"] for run in chosen})
    return [_point(study, [run for run in chosen if run["gpus"] == gpus], job_j) for gpus in counts]


def comm_points(study: Path, plan: StudyPlan) -> list[tuple[CommSetting, Point]]:
    """Returns every comm setting that the study tried, with its point."""
    by_setting: dict[CommSetting, list[PlannedRun]] = {}
    for run in plan["runs"]:
        if knob := run.get("knob"):
            by_setting.setdefault(CommSetting(*knob), []).append(run)
    return [(setting, _point(study, runs)) for setting, runs in by_setting.items()]


def timelines(study: Path, plan: StudyPlan, data: Kind) -> list[tuple[int, Timeline]]:
    """Returns (GPUs, Horovod's timeline) of each count's first run that recorded one (comm.timeline=true)."""
    by_gpus: dict[int, Timeline] = {}
    for facts in sorted(plan["runs"], key=lambda facts: (facts["gpus"], facts["repeat"])):
        run = RunDir(study / facts["run"])
        attempts = run.attempts()
        if facts["data"] != data or facts.get("knob") or facts["gpus"] in by_gpus or not attempts:
            continue
        file = run.timeline_file(attempts[-1])
        if file.is_file():
            timeline = horovod_timeline.summary(
                file.read_text(errors="replace"), run.read_config()["train"]["steps"]
            )
            if timeline is not None:
                by_gpus[facts["gpus"]] = timeline
    return list(by_gpus.items())


def _point(study: Path, planned: Sequence[PlannedRun], job_j: Mapping[str, float] | None = None) -> Point:
    """Returns one point with its finished repeats and the reasons why others are missing."""
    repeats, missing = [], []
    for facts in sorted(planned, key=lambda facts: facts["repeat"]):
        run = RunDir(study / facts["run"])
        state = run.read_state()
        measured = repeat(run, job_j) if state.phase == Phase.DONE else None
        if measured is None:
            why = state.reason or (state.phase if state.phase != Phase.NEW else "never submitted")
            missing.append(f"{facts['run']}: {why}")
        else:
            repeats.append(measured)
    first = planned[0]
    return Point(first["gpus"], first["nodes"], first["batch"], tuple(repeats), tuple(missing))


def repeat(run: RunDir, job_j: Mapping[str, float] | None = None) -> Repeat | None:
    """Returns one run's figures without its warm-up; None if it recorded no step after that."""
    values = run.read_config()
    window = values["train"]["log_every"]
    warm = window * warmup_windows(run.path.parent)
    records = [r for r in train_records(run.metrics_file) if r.step > warm and not r.cut]
    steps = sum(r.window_steps for r in records)
    if not steps:
        return None
    total_s = sum(r.window_s for r in records)
    parts_s: dict[str, float] = {}
    for part, name in _PART_OF.items():
        spent_s = sum(r.step_ms.get(part, 0.0) * r.window_steps for r in records) / steps / 1e3
        parts_s[name] = parts_s.get(name, 0.0) + spent_s
    profile = run.read_profile()
    hidden_s = None
    if profile and profile["ranks"] > 1:
        parts_s["straggler"] = min(parts_s["exposed"], straggler_s(profile))
        parts_s["exposed"] -= parts_s["straggler"]
        hidden_s = max(0.0, statistics.fmean(profile["exchange_s"]) - parts_s["exposed"])
    return Repeat(
        total_s / steps,
        sum((r.rates.samples_per_s or 0.0) * r.window_s for r in records) / total_s,
        parts_s,
        hidden_s,
        _mean([r.rates.gflop_per_s for r in records]),
        _mean([r.rates.mfu for r in records]),
        *sample_j(run.read_state(), job_j or {}),
    )


ENERGY = {"gpu": "GPUs (NVML)", "packages": "CPU packages (RAPL)"}


def sample_j(state: RunState, job_j: Mapping[str, float]) -> tuple[float | None, str]:
    """Returns (joules per sample, source) for the whole run; (None, "") if nothing was measured.

    The run's own figure covers its training. Slurm's figure, used if the run has none, covers the whole job.
    """
    summary = state.summary or {}
    own = summary.get("energy") or {}
    if own.get("samples") and own["joules"]:
        text = " and ".join(ENERGY[source] for source in sorted(own["joules"]))
        return float(sum(own["joules"].values()) / own["samples"]), text
    joules = job_j.get(str(state.job_id))
    if joules and summary.get("samples"):
        return joules / summary["samples"], "whole jobs (Slurm)"
    return None, ""


def own_plan(study: Path) -> StudyPlan | None:
    """Returns the plan, to act on it; None if users other than this one could have written it. Raises Damaged."""
    try:
        return load(study / PLAN, StudyPlan, own=True)
    except Foreign:
        return None


def job_ids(study: Path, plan: StudyPlan) -> list[str]:
    """Returns the jobs of the runs that are done and did not record energy themselves."""
    states = [RunDir(study / run["run"]).read_state() for run in plan["runs"]]
    done = [s for s in states if s.phase == Phase.DONE and not (s.summary or {}).get("energy")]
    return sorted({str(s.job_id) for s in done if s.job_id})


def warmup_windows(study: Path) -> int:
    """Returns how many windows at the start of each run are not measured. Raises Damaged."""
    plan = load(study / PLAN, StudyPlan)
    return plan["warmup_windows"] if plan else 1


def straggler_s(profile: Profile) -> float:
    """Returns how many seconds rank 0, which writes the records, waits for the slowest rank's computing on average."""
    own, *others = own_batch(profile)["step_s"]
    return statistics.fmean([max(each) - each[0] for each in zip(own, *others, strict=True)])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return statistics.fmean(known) if known else None
