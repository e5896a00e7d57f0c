"""A scaling study's results from its files alone: table, laws, findings, and predictions compared with measurements.

Takes a study's folder; returns text, CSV, JSON, LaTeX and the sections of its page. Works while the study runs.
Times are in seconds. No torch; only `job_j` asks Slurm.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import get_args

from hpctrain.config.load import from_dict
from hpctrain.config.settings import Config
from hpctrain.errors import Uncounted, UserError
from hpctrain.launch.estimate import step_work
from hpctrain.report import table as tables
from hpctrain.report.table import Column
from hpctrain.scaling import calibration, comm_settings, laws, measured
from hpctrain.scaling.comm_settings import CommSetting, Effect
from hpctrain.scaling.horovod_timeline import Timeline
from hpctrain.scaling.laws import NOISY, PARTS, Fit, Point, Row, Value
from hpctrain.scaling.measured import StudyPlan
from hpctrain.scaling.plan import Kind, ScalingConfig, scaling_config
from hpctrain.scaling.predict import Predicted
from hpctrain.scheduler import client


@dataclass(frozen=True)
class Figures:
    """The results of one kind of data; a study has one or two."""

    data: Kind
    points: list[Point]
    table: list[Row]
    law: Fit | None
    predicted: list[Predicted]
    finding: list[str]
    exaflops: float | None
    effects: list[Effect] = field(default_factory=list)
    tried: list[Point] = field(default_factory=list)  # runs with other comm settings
    timelines: list[tuple[int, Timeline]] = field(default_factory=list)

    @property
    def missing(self) -> list[str]:
        """The runs without a result, and why."""
        return [text for point in (*self.points, *self.tried) for text in point.missing]


def analyse(study: Path, job_j: Mapping[str, float] | None = None) -> tuple[StudyPlan, list[Figures]]:
    """Returns the study's plan and its results so far. Raises UserError if there are none.

    `job_j` holds Slurm's joules by job, for runs that did not measure energy themselves.
    """
    plan = measured.read_plan(study)
    mode = plan["mode"]
    samples = (plan["epochs"] or 0) * (plan["train_samples"] or 0)
    all_points = {data: measured.points(study, plan, data, job_j or {}) for data in get_args(Kind)}
    if not any(point.repeats for points in all_points.values() for point in points):
        gaps = [gap for points in all_points.values() for point in points for gap in point.missing]
        raise UserError(
            "study", study.name, f"has no result yet ({gaps[0]}); hpctrain status --study {study.name}"
        )
    results = []
    for data, points in all_points.items():
        if not points:
            continue
        table = laws.rows(points, samples or None)
        predicted = _predicted(study, plan, sorted({p.gpus for p in points})) if data == "own" else []
        curve = [(p.gpus, p.efficiency) for p in predicted]
        law = laws.fit(points, mode)
        finding = laws.finding(table, mode, curve)
        results.append(
            Figures(
                data, points, table, law, predicted, finding, _exaflops(study, plan, samples),
                timelines=measured.timelines(study, plan, data),
            )
        )  # fmt: skip
    results[0] = _with_effects(study, plan, results[0])
    return plan, results


def _with_effects(study: Path, plan: StudyPlan, figures: Figures) -> Figures:
    """Returns the figures with the measured and predicted effects of other comm settings on the most GPUs."""
    tried = measured.comm_points(study, plan)
    if not tried:
        return figures
    most = figures.points[-1].gpus
    predicted = _predicted_effects(study, plan, most, [setting for setting, _ in tried])
    effects = comm_settings.effects(figures.points[-1], tried, predicted)
    return replace(
        figures, effects=effects, tried=[point for _, point in tried],
        finding=[*figures.finding, *comm_settings.finding(effects, most)],
    )  # fmt: skip


def job_j(study: Path) -> dict[str, float]:
    """Returns Slurm's joules by job, for jobs that did not measure energy themselves.

    Does not ask Slurm if others could have written which cluster the study is on.
    """
    plan = measured.own_plan(study)
    if plan is None:
        return {}
    cluster = plan["config"]["cluster"]
    if cluster.get("slurm_conf") and not Path(cluster["slurm_conf"]).expanduser().exists():
        return {}  # the cluster no longer exists
    return client.energy_j(measured.job_ids(study, plan), cluster.get("slurm_conf"))


def _predicted_effects(
    study: Path, plan: StudyPlan, gpus: int, tried: Sequence[CommSetting]
) -> dict[str, float]:
    """Returns the model's relative change of samples/s by setting; {} if the cluster is not calibrated."""
    config, settings = _settings(study, plan)
    calibrated = calibration.find(config, settings)
    if calibrated is None:
        return {}
    most = replace(settings, gpus=(gpus,))
    own = calibration.curve(config, most, calibrated)[0].samples_per_s
    changes = {}
    for setting in tried:
        (other,) = calibration.curve(comm_settings.changed(config, setting), most, calibrated)
        changes[setting.name] = other.samples_per_s / own - 1
    return changes


def _settings(study: Path, plan: StudyPlan) -> tuple[Config, ScalingConfig]:
    """Returns the study's configuration, with its present folder as the root, and its scaling settings."""
    config = from_dict(plan["config"], own=measured.own_plan(study) is not None)
    return replace(config, run=replace(config.run, root=str(study.parent))), scaling_config(plan["settings"])


def _predicted(study: Path, plan: StudyPlan, gpus: Sequence[int]) -> list[Predicted]:
    """Returns the model's predictions for the measured counts, and for twice and four times the largest one.

    Returns [] if the cluster is not calibrated.
    """
    config, settings = _settings(study, plan)
    calibrated = calibration.find(config, settings)
    if calibrated is None:
        return []
    counts = [*gpus, 2 * gpus[-1], 4 * gpus[-1]]
    predictions: list[Predicted] = []
    for count in counts:
        try:  # a fixed batch may not divide further
            predictions += calibration.curve(config, replace(settings, gpus=(count,)), calibrated)
        except UserError:
            break
    return predictions


def _exaflops(study: Path, plan: StudyPlan, samples: float) -> float | None:
    """Returns the exaFLOPs of the target's forward and backward passes; None if they are not counted."""
    config, _ = _settings(study, plan)
    if not samples or config.model.target is not None:
        return None
    try:
        work = step_work(config)
    except Uncounted:
        return None
    return (work.forward_flops + work.backward_flops) * samples / 1e18


Cell = float | str | None
COLUMNS = (
    "gpus", "nodes", "batch", "repeats", "samples_per_s", "samples_per_s_half", "step_ms", "step_ms_half",
    *(f"{part}_ms" for part in PARTS), "hidden_ms", "speedup", "speedup_half", "efficiency", "efficiency_half",
    "karp_flatt", "karp_flatt_half", "gflop_per_s", "mfu", "node_hours", "sample_j", "sample_j_half", "energy",
    "predicted_step_ms", "predicted_efficiency",
)  # fmt: skip


def flat(figures: Figures) -> list[dict[str, Cell]]:
    """Returns one flat row per GPU count, for programs. Halves are half widths of 95 % intervals."""
    predicted = {p.gpus: p for p in figures.predicted}
    rows = []
    for r in figures.table:
        model = predicted.get(r.gpus)
        values: dict[str, Cell] = {
            "gpus": r.gpus, "nodes": r.nodes, "batch": r.batch, "repeats": r.repeats,
            **_pair("samples_per_s", r.samples_per_s), **_pair("step_ms", r.step_s, 1e3),
            **{f"{part}_ms": 1e3 * s for part, s in r.parts_s.items()},
            "hidden_ms": None if r.hidden_s is None else 1e3 * r.hidden_s,
            **_pair("speedup", r.speedup), **_pair("efficiency", r.efficiency),
            **(_pair("karp_flatt", r.karp_flatt) if r.karp_flatt else {}),
            "gflop_per_s": r.gflop_per_s, "mfu": r.mfu, "node_hours": r.node_hours,
            **(_pair("sample_j", r.sample_j) | {"energy": r.energy} if r.sample_j else {}),
            "predicted_step_ms": 1e3 * model.step.total_s if model else None,
            "predicted_efficiency": model.efficiency if model else None,
        }  # fmt: skip
        rows.append({column: values.get(column) for column in COLUMNS})
    return rows


def _pair(name: str, value: Value, factor: float = 1.0) -> dict[str, Cell]:
    scaled = value.times(factor)
    return {name: scaled.mean, f"{name}_half": scaled.half}


def as_json(plan: StudyPlan, results: Sequence[Figures]) -> dict[str, object]:
    """Returns the whole report as one JSON document."""
    return {
        "mode": plan["mode"], "cluster": plan["cluster"], "experiment": plan["experiment"], "epochs": plan["epochs"],
        "data": {
            f.data: {
                "rows": flat(f), "law": None if f.law is None else _law(f.law),
                "finding": f.finding, "missing": f.missing, "exaflops": f.exaflops,
                "predicted": [asdict(p) for p in f.predicted],
                "timelines": {gpus: asdict(timeline) for gpus, timeline in f.timelines},
                "knobs": [asdict(e) | {"setting": e.name, "matters": e.matters} for e in f.effects],
            }
            for f in results
        },
    }  # fmt: skip


def _law(law: Fit) -> dict[str, object]:
    ends = [None if end == math.inf else end for end in law.limits or (None, None)]
    found = {"distinguishable": law.distinguishable, "limit": law.limit}
    return asdict(law) | found | dict(zip(("limit_low", "limit_high"), ends, strict=True))


def as_csv(results: Sequence[Figures]) -> str:
    """Returns the rows of all kinds of data as CSV text."""
    out = io.StringIO()
    writer = csv.DictWriter(out, ["data", *COLUMNS], lineterminator="\n")
    writer.writeheader()
    for f in results:
        writer.writerows({"data": f.data, **row} for row in flat(f))
    return out.getvalue()


def as_latex(plan: StudyPlan, results: Sequence[Figures]) -> str:
    """Returns a table for a proposal; it needs the LaTeX package booktabs."""
    kept = "effective batch" if plan["mode"] == "strong" else "batch per GPU"
    lines = [
        r"\begin{tabular}{rrrrrr}",
        r"\toprule",
        r"GPUs & Nodes & Batch & Samples/s & Speed-up & Efficiency \\",
    ]
    for f in results:
        lines.append(r"\midrule")
        lines += [
            f"{r.gpus} & {r.nodes} & {r.batch} & {_tex(r.samples_per_s)} & {_tex(r.speedup)} & "
            f"{_tex(r.efficiency.times(100))}\\,\\% \\\\"
            for r in f.table
        ]
    name = str(plan["experiment"]).replace("_", r"\_")
    lines += [r"\bottomrule", r"\end{tabular}"]
    return f"% {plan['mode']} scaling (fixed {kept}) of {name}, 95 % intervals\n" + "\n".join(lines) + "\n"


def _tex(value: Value) -> str:
    return (
        f"${number(value.mean)}$" if value.half is None else f"${number(value.mean)} \\pm {value.half:.2g}$"
    )


def number(value: float) -> str:
    """Returns a number with at least four digits and without an exponent."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def columns(rows: Sequence[Row]) -> list[Column]:
    """Returns the table for people, with the same decimals in each column."""
    hours = [row.node_hours for row in rows]
    found = [
        tables.texts("GPUs", [row.gpus for row in rows]),
        tables.texts("nodes", [row.nodes for row in rows]),
        Column("batch", [f"{row.batch:,}" for row in rows], [row.batch for row in rows]),
        value_column("samples/s", [row.samples_per_s for row in rows]),
        value_column("ms per step", [row.step_s.times(1e3) for row in rows]),
        value_column("speed-up", [row.speedup for row in rows]),
        value_column("efficiency %", [row.efficiency.times(100) for row in rows]),
        value_column("Karp-Flatt", [row.karp_flatt for row in rows]),
        tables.figures("node-hours", hours, tables.places(hours, digits=3)),
    ]
    return [c for c in found if any(v is not None for v in c.values or ())]


def value_column(head: str, values: Sequence[Value | None], sign: str = "") -> Column:
    """Returns a column of means with their intervals, if they have one; `sign` as in table.fixed."""
    means, halves = [v.mean if v else None for v in values], [v.half if v else None for v in values]
    decimals = tables.places(means, halves)
    cells = [tables.fixed(mean, decimals, sign) for mean in means]
    texts = ["" if half is None else tables.fixed(half, decimals) for half in halves]
    widest = max(map(len, texts))
    widths = [f" ± {text:>{widest}}" if text else " " * (widest + 3) * (widest > 0) for text in texts]
    return Column(head, [cell + width for cell, width in zip(cells, widths, strict=True)], means)


def shown(value: Value, factor: float = 1.0) -> str:
    """Returns a value times `factor` as text, with its interval if it has one."""
    scaled = value.times(factor)
    if scaled.half is None:
        return f"{scaled.mean:,.4g}"
    decimals = tables.places([scaled.mean], [scaled.half])
    return f"{tables.fixed(scaled.mean, decimals)} ± {tables.fixed(scaled.half, decimals)}"


def why_not_drawn(law: Fit, rows: Sequence[Row]) -> str | None:
    """Returns why the fitted law says nothing about these points; None if it does."""
    serial = law.serial
    if law.law == "Amdahl" and len(rows) < 3:
        return "two GPU counts fit it always; a third one would test it"
    if law.fits is False:
        return "it does not fit, the points differ from it by more than their repeats do"
    if serial.half is None:
        return "without repeats its serial fraction has no interval"
    if any(r.efficiency.half is not None and r.efficiency.half > NOISY * r.efficiency.mean for r in rows):
        return "the repeats differ too much"
    fraction = f"{shown(serial, 100)} %"
    if serial.high < 0:
        return f"it does not fit, its serial fraction would be {fraction}"
    if not law.distinguishable:
        seen = f" (a speed-up limited to less than {law.limits[0]:.3g} is excluded)" if law.limits else ""
        return f"its serial fraction, {fraction}, cannot be told from zero{seen}"
    return None


def law_line(law: Fit, rows: Sequence[Row]) -> str:
    """Returns the fitted law as a sentence, with the limit that follows and its interval, or why it is not shown."""
    if reason := why_not_drawn(law, rows):
        return f"{law.law}'s law is not shown: {reason}"
    text = f"{law.law}'s law: serial fraction {shown(law.serial, 100)} %"
    if law.limit is None or law.limits is None:
        return text
    low, high = law.limits
    return f"{text}, speed-up at most {law.limit:.3g} ({low:.3g} to {high:.3g})"


def errors_line(figures: Figures) -> str | None:
    """Returns a line with the prediction's error at each measured count; None if nothing was predicted."""
    predicted = {p.gpus: p.step.total_s for p in figures.predicted}
    pairs = [(r.gpus, predicted[r.gpus] / r.step_s.mean - 1) for r in figures.table if r.gpus in predicted]
    if not pairs:
        return None
    return "predicted step time against measured: " + ", ".join(f"{gpus} GPUs {e:+.0%}" for gpus, e in pairs)
