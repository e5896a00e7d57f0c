"""A scaling study for people: as text for a terminal, and as one HTML page. Takes the results of scaling/report.py."""

from __future__ import annotations

from collections.abc import Sequence

from hpctrain.report import html, scaling_plots
from hpctrain.report.scaling_plots import Series
from hpctrain.scaling import comm_settings
from hpctrain.scaling.comm_settings import Effect
from hpctrain.scaling.forecast import curves
from hpctrain.scaling.laws import PARTS, Row
from hpctrain.scaling.measured import StudyPlan
from hpctrain.scaling.report import HEADS, Figures, cells, errors_line, law_line, shown


def text(name: str, plan: StudyPlan, results: Sequence[Figures]) -> str:
    """Returns the study for a terminal: a table and the findings of each kind of data."""
    lines = []
    for f in results:
        lines.append(f"study {name}: {_title(plan, f)}")
        rows = [HEADS, *(cells(row) for row in f.table)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += ["  ".join(f"{cell:>{w}}" for cell, w in zip(row, widths, strict=True)) for row in rows]
        lines += [*_lines(f), *(f"gap: {gap}" for gap in f.missing)]
        for setting, change, predicted in map(_effect, f.effects):
            lines.append(
                f"  {setting:32} {change:>16} samples/s{predicted and f', the model says {predicted}'}"
            )
    return "\n".join(lines)


def page(name: str, plan: StudyPlan, results: Sequence[Figures]) -> str:
    """Returns the study as one HTML page."""
    kept = "the effective batch is fixed" if plan["mode"] == "strong" else "the batch per GPU is fixed"
    subtitle = (
        f"{plan['mode']} scaling ({kept}) of {plan['experiment']} on {plan['cluster']}; ± are 95 % intervals"
    )
    sections = [html.Section(_title(plan, f), _blocks(f)) for f in results]
    return html.page(f"Study {name}", subtitle, sections)


def _title(plan: StudyPlan, f: Figures) -> str:
    data = "synthetic data" if f.data == "synthetic" else "its own data"
    return f"{plan['mode']} scaling of {plan['experiment']}, {data}"


def _lines(f: Figures) -> list[str]:
    lines = list(f.finding)
    if f.law:
        lines.append(law_line(f.law))
    if text := errors_line(f):
        lines.append(text)
    joules = [r for r in f.table if r.sample_j]
    if joules:
        each = ", ".join(f"{r.gpus} GPUs {shown(r.sample_j)}" for r in joules if r.sample_j)
        lines.append(f"joules per sample, {joules[0].energy}: {each}")
    lines += [f"Horovod's timeline on {gpus} GPUs: {timeline.line}" for gpus, timeline in f.timelines]
    if f.exaflops:
        lines.append(f"the target costs {f.exaflops:.3g} exaFLOPs of forward and backward passes")
    return lines


def _blocks(f: Figures) -> list[html.Block]:
    if not f.table:
        return [html.Text(gap) for gap in f.missing]
    blocks: list[html.Block] = [html.Text(" ".join(f.finding))]
    blocks += [html.Text(line) for line in _lines(f)[len(f.finding) :]]
    blocks.append(html.Table(HEADS, [cells(row) for row in f.table]))
    blocks.append(html.Picture(picture(f), "throughput and efficiency over GPUs", _caption(f)))
    parts = {
        p: [r.parts_s.get(p, 0.0) for r in f.table] for p in PARTS if any(p in r.parts_s for r in f.table)
    }
    png = scaling_plots.split([r.gpus for r in f.table], parts, [r.hidden_s for r in f.table])
    blocks.append(html.Picture(png, "the parts of a step", "Where a step's time goes."))
    blocks.append(
        html.Table(
            ["GPUs", *(f"{part} ms" for part in parts), "hidden ms"],
            [_split(r, list(parts)) for r in f.table],
        )
    )
    if f.effects:
        heads = ["comm setting", "samples/s", "the model says"]
        blocks.append(html.Table(heads, [_effect(e) for e in f.effects]))
    if f.missing:
        blocks.append(html.Text("Gaps: " + "; ".join(f.missing)))
    return blocks


def _effect(e: Effect) -> tuple[str, str, str]:
    return e.name, comm_settings.percent(e.change), "" if e.predicted is None else f"{e.predicted:+.1%}"


def _split(row: Row, parts: Sequence[str]) -> list[float | None]:
    hidden = None if row.hidden_s is None else 1e3 * row.hidden_s
    return [row.gpus, *(1e3 * row.parts_s.get(part, 0.0) for part in parts), hidden]


def _caption(f: Figures) -> str:
    text = "Dashed: ideal scaling from the smallest point."
    if f.law and f.law.limit:
        text += " Dotted: Amdahl's limit."
    return (
        f"{text} Predicted: from the cluster's calibration, not fitted to these points."
        if f.predicted
        else text
    )


def picture(f: Figures) -> bytes:
    """Returns a PNG of measured and predicted scaling, with the ideal line and Amdahl's limit."""
    x = [r.gpus for r in f.table]
    rates = [r.samples_per_s for r in f.table]
    shares = [r.efficiency for r in f.table]
    measured_rate = Series(
        "measured", x, [v.mean for v in rates], [v.low for v in rates], [v.high for v in rates]
    )
    measured_share = Series(
        "measured", x, [v.mean for v in shares], [v.low for v in shares], [v.high for v in shares]
    )
    first = f.table[0]
    limit = f.law.limit * rates[0].mean / first.gpus if f.law and f.law.limit and first.gpus == 1 else None
    models = [curves(f.predicted)] if f.predicted else []
    return scaling_plots.scaling(
        [measured_rate, *(rate for rate, _ in models)],
        [measured_share, *(share for _, share in models)],
        (first.gpus, rates[0].mean),
        limit,
    )
