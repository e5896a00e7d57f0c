"""The scores and costs of a study's runs, read from files. No torch, no Slurm, no GPU.

Takes a study's folder; returns one `Result` per run, and how the study's slots were used.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hpctrain.errors import UserError
from hpctrain.storage.records import ValidationRecord, validation_records
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import FINAL, Phase
from hpctrain.storage.search import runs
from hpctrain.sweep import claims
from hpctrain.sweep.study_dir import Ended, StudyDir, Trial


@dataclass(frozen=True)
class Result:
    """One run: its swept values, its score and its cost. `curve` holds (epoch, metric) pairs."""

    run_id: str
    params: Mapping[str, Any]
    overrides: tuple[str, ...]
    fixed: tuple[str, ...]
    phase: str
    reason: str | None
    detail: str | None
    value: float | None
    epochs: float
    curve: list[tuple[float, float]]
    ranks: int
    seconds: float
    flops: float | None


@dataclass(frozen=True)
class Usage:
    """Slot time of the study's jobs in seconds: all of it, and the part in which runs were at work."""

    slots_s: float
    busy_s: float
    jobs: int


def score(records: Sequence[ValidationRecord], metric: str, epochs: float | None = None) -> float | None:
    """Returns the metric of the last record, or of the one after `epochs`; None if it is missing or not finite."""
    eligible = [r for r in records if epochs is None or r.epoch == epochs]
    value = eligible[-1].scores.get(metric) if eligible else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def ended(run: RunDir, metric: str, epochs: float | None = None) -> Ended:
    """Returns the record of a finished piece of work, from the run's files."""
    state, records = run.read_state(), validation_records(run.metrics_file)
    return {
        "value": score(records, metric, epochs), "epochs": records[-1].epoch if records else 0.0,
        "phase": state.phase, "reason": state.reason, "detail": state.detail,
    }  # fmt: skip


def read(study: StudyDir, metric: str) -> list[Result]:
    """Returns one result per run, in the order in which the runs were added. A run without a folder keeps its last
    recorded result."""
    trials, ends = study.trials(), study.ended()
    last: dict[str, Ended] = {}
    for key in sorted(ends, key=lambda key: int(key.rpartition(".")[2])):
        last[key.rpartition(".")[0]] = ends[key]
    spent = seconds(study)
    keys = list(dict.fromkeys(key for t in trials.values() for key in t.params))
    trials = {run_id: _with_all(t, keys) for run_id, t in trials.items()}
    if also := _also_different(list(trials.values())):
        trials = {run_id: _with_all(t, [*keys, *also]) for run_id, t in trials.items()}
    return [
        _result(study.run(t.run_id), t, last.get(t.run_id), spent.get(t.run_id), metric)
        for t in trials.values()
    ]


def _with_all(trial: Trial, keys: Sequence[str]) -> Trial:
    """Returns the trial with a value for each key that any call of `sweep` has swept; its configuration fills in
    those that its own call did not sweep."""
    if len(trial.params) == len(keys):
        return trial
    flat = dict(_flat(trial.config))
    configured = {key: flat.get(key, flat.get(f"{key}.name")) for key in keys}
    return replace(trial, params=configured | dict(trial.params))


def _also_different(trials: Sequence[Trial]) -> list[str]:
    """Returns the settings that tell runs apart which are alike in all that was swept: two calls of `sweep` may have
    given other values to all of their runs (train.epochs=5, later train.epochs=10)."""
    alike: dict[str, dict[tuple[str, ...], Trial]] = {}
    for t in trials:
        alike.setdefault(repr(sorted(t.params.items(), key=str)), {}).setdefault(t.fixed, t)
    groups = [[dict(_flat(t.config)) for t in group.values()] for group in alike.values() if len(group) > 1]
    return list(dict.fromkeys(key for group in groups for key in _differing(group)))


def _differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the settings that differ between flat configurations, but for those of the place where a run runs.

    Of two networks (model.name differs) those settings count that both have.
    """
    keys = dict.fromkeys(key for config in configs for key in config)
    found = [key for key in keys if len({json.dumps(c.get(key)) for c in configs}) > 1]
    kinds = {key.removesuffix("name") for key in found if key.endswith(".name")}
    return [
        key for key in found
        if not key.startswith(("run.", "cluster.", "resources."))
        and (all(key in c for c in configs) or f"{key.partition('.')[0]}." not in kinds)
    ]  # fmt: skip


def read_plain(study: StudyDir, metric: str, say: Callable[[str], None]) -> list[Result]:
    """Returns the results of runs that `submit` or `train` put into one folder; the settings that differ between
    them count as swept. A run whose config.yaml cannot be read has None for each setting; `say` hears why."""
    members = list(runs(study.path.parent, study.name))
    configs = [_config(run, say) for run in members]
    flat = [dict(_flat(c)) for c in configs]
    read = [f for f in flat if f]
    keys = _differing(read)
    results = []
    for run, config, values in zip(members, configs, flat, strict=True):
        params = {key: values.get(key) for key in keys}
        overrides = tuple(f"{key}={value}" for key, value in params.items())
        results.append(_result(run, Trial(run.run_id, overrides, params, config), None, None, metric))
    return results


def _config(run: RunDir, say: Callable[[str], None]) -> dict[str, Any]:
    try:
        return run.read_config()
    except (UserError, OSError) as error:
        say(str(error))
        return {}


def _result(run: RunDir, trial: Trial, last: Ended | None, spent: float | None, metric: str) -> Result:
    state, records = run.read_state(), validation_records(run.metrics_file)
    curve = [(r.epoch, r.scores[metric]) for r in records if isinstance(r.scores.get(metric), int | float)]
    value = score(records, metric)
    phase: str = "waiting" if state.phase == Phase.NEW else state.phase
    reason = state.reason
    if last:
        value = last.get("value") if not records else value
        phase = last["phase"] if last["phase"] != "paused" or phase in FINAL else phase
        reason = last.get("reason")
    summary = state.summary or {}
    ranks = state.ranks or 1
    return Result(
        trial.run_id, trial.params, trial.overrides, trial.fixed, phase, reason, state.detail,
        None if state.phase == Phase.FAILED else value, curve[-1][0] if curve else 0.0, curve, ranks,
        spent if spent is not None else summary.get("elapsed_s", 0.0), summary.get("flops_total", 0.0),
    )  # fmt: skip


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs = []
    for key, value in values.items():
        pairs += (
            _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
        )
    return pairs


def seconds(study: StudyDir) -> dict[str, float]:
    """Returns how long each run held a slot, over all its turns. A killed turn counts up to its last heartbeat."""
    spent: dict[str, float] = {}
    now = time.time()
    for key, last in claims.newest(study.claims).items():
        run_id = key.rpartition(".")[0]
        for n in range(1, last + 1):
            record = claims.read(study.claims, key, n)
            began, until = record.get("began"), record.get("until")
            if began is None:
                continue
            if until is None:
                heartbeat = study.run(run_id).read_state().heartbeat or began
                until = max(began, min(now, heartbeat))
            spent[run_id] = spent.get(run_id, 0.0) + max(0.0, until - began)  # a clock may be set back
    return spent


def damage(study: StudyDir) -> list[str]:
    """Returns a line for each damaged claim that says what is wrong; the turns of these do not count as costs."""
    newest = claims.newest(study.claims).items()
    records = (claims.read(study.claims, key, n) for key, last in newest for n in range(1, last + 1))
    return [record["damage"] for record in records if "damage" in record]


def usage(study: StudyDir) -> Usage:
    """Returns how the slots of the study's jobs were used, from a job's start to its last sign of life.

    A turn counts once it has ended.
    """
    jobs = study.jobs()
    slots_s = math.fsum(
        (job["until"] or job["seen"]) - job["began"] for job in jobs for _ in range(job["lanes"])
    )
    busy_s = 0.0
    for key, last in claims.newest(study.claims).items():
        records = (claims.read(study.claims, key, n) for n in range(1, last + 1))
        busy_s += math.fsum(r["until"] - r["began"] for r in records if r.get("until"))
    return Usage(slots_s, busy_s, len(jobs))
