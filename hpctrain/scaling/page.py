"""A scaling study for people: as text for a terminal, and as one HTML page. Takes the results of scaling/report.py."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from hpctrain.report import html, scaling_plots
from hpctrain.report import table as tables
from hpctrain.report.scaling_plots import LAW, Series
from hpctrain.report.table import Column
from hpctrain.scaling.comm_settings import Effect
from hpctrain.scaling.forecast import curves
from hpctrain.scaling.laws import PARTS, Fit
from hpctrain.scaling.measured import StudyPlan
from hpctrain.scaling.report import (
    Figures,
    columns,
    errors_line,
    law_line,
    shown,
    value_column,
    why_not_drawn,
)


def text(name: str, plan: StudyPlan, results: Sequence[Figures], width: int = sys.maxsize) -> str:
    """Returns the study for a terminal of `width` letters: a table and the findings of each kind of data."""
    lines = []
    for f in results:
        lines.append(f"study {name}: {title(plan, f)}")
        lines += tables.lines(columns(f.table), width) if f.table else []
        lines += [*_lines(f), *(f"gap: {gap}" for gap in f.missing)]
        lines += tables.lines(_effects(f.effects), width) if f.effects else []
    return "\n".join(lines)


def page(name: str, plan: StudyPlan, results: Sequence[Figures]) -> str:
    """Returns the study as one HTML page."""
    kept = "the effective batch is fixed" if plan["mode"] == "strong" else "the batch per GPU is fixed"
    subtitle = (
        f"{plan['mode']} scaling ({kept}) of {plan['experiment']} on {plan['cluster']}; ± are 95 % intervals"
    )
    sections = [html.Section(title(plan, f), _blocks(f, f"Study {name}: {title(plan, f)}")) for f in results]
    return html.page(f"Study {name}", subtitle, sections)


def title(plan: StudyPlan, f: Figures) -> str:
    """Returns what a kind of data's results are called."""
    data = "synthetic data" if f.data == "synthetic" else "its own data"
    return f"{plan['mode']} scaling of {plan['experiment']}, {data}"


def _lines(f: Figures) -> list[str]:
    lines = list(f.finding)
    if f.law:
        lines.append(law_line(f.law, f.table))
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


def _blocks(f: Figures, title: str) -> list[html.Block]:
    if not f.table:
        return [html.Text(gap) for gap in f.missing]
    blocks: list[html.Block] = [html.Text(" ".join(f.finding))]
    blocks += [html.Text(line) for line in _lines(f)[len(f.finding) :]]
    blocks.append(html.Table(columns(f.table)))
    blocks.append(html.Picture(picture(f, title), "throughput and efficiency over GPUs", _caption(f)))
    parts = {
        p: [r.parts_s.get(p, 0.0) for r in f.table] for p in PARTS if any(r.parts_s.get(p) for r in f.table)
    }
    hidden = [r.hidden_s for r in f.table]
    png = scaling_plots.split(f"{title}: the parts of a step", [r.gpus for r in f.table], parts, hidden)
    words = "; ".join(f"{part}: {PARTS[part]}" for part in parts)
    hides = " Hidden: communication during the backward pass, which takes no time of its own." * any(hidden)
    blocks.append(html.Picture(png, "the parts of a step", f"Where a step's time goes. {words}.{hides}"))
    blocks.append(html.Table(_split(f, parts)))
    if f.effects:
        blocks.append(html.Table(_effects(f.effects)))
    if f.missing:
        blocks.append(html.Text("Gaps: " + "; ".join(f.missing)))
    return blocks


def _effects(effects: Sequence[Effect]) -> list[Column]:
    """Returns the table of comm settings: by how many per cent samples/s change, measured and predicted."""
    model = [None if e.predicted is None else 100 * e.predicted for e in effects]
    cells = [tables.fixed(m, 1, "+") for m in model]
    found = [
        tables.texts("comm setting", [e.name for e in effects]),
        value_column("samples/s %", [e.change.times(100) for e in effects], "+"),
    ]
    return [
        *found,
        *([Column("the model says %", cells, model)] if any(m is not None for m in model) else []),
    ]


def _split(f: Figures, parts: Mapping[str, Sequence[float]]) -> list[Column]:
    """Returns the table of the parts of a step in ms."""
    heads = {f"{part} ms": [1e3 * s for s in seconds] for part, seconds in parts.items()}
    hidden = [None if r.hidden_s is None else 1e3 * r.hidden_s for r in f.table]
    decimals = tables.places([r.step_s.mean * 1e3 for r in f.table])
    gpus = tables.texts("GPUs", [r.gpus for r in f.table])
    return [
        gpus,
        *(tables.figures(h, v, decimals) for h, v in heads.items()),
        tables.figures("hidden ms", hidden, decimals),
    ]


def _caption(f: Figures) -> str:
    said = ["Dashed grey: ideal scaling from the smallest point."]
    if law := _drawn(f):
        limit = f", which no number of GPUs takes beyond {law.limit:.3g} times one" if law.limit else ""
        said.append(f"Dotted: {law.law}'s law{limit}.")
    if any(r.efficiency.half is not None for r in f.table):
        said.append("Bars: 95 % intervals.")
    if f.predicted:
        said.append("Predicted: from the cluster's calibration, not fitted to these points.")
    return " ".join(said)


def _drawn(f: Figures) -> Fit | None:
    """Returns the fitted law if it says something; None otherwise."""
    return f.law if f.law and why_not_drawn(f.law, f.table) is None else None


def picture(f: Figures, title: str) -> bytes:
    """Returns a PNG of measured and predicted scaling, with the ideal line and the fitted law, if it says something."""
    x = [r.gpus for r in f.table]
    rates = [r.samples_per_s for r in f.table]
    shares = [r.efficiency for r in f.table]
    measured_rate = Series(
        "measured", x, [v.mean for v in rates], [v.low for v in rates], [v.high for v in rates]
    )
    measured_share = Series(
        "measured", x, [v.mean for v in shares], [v.low for v in shares], [v.high for v in shares]
    )
    curves_of = [(measured_rate, measured_share), *([curves(f.predicted)] if f.predicted else [])]
    base = (x[0], rates[0].mean)
    if law := _drawn(f):
        gain = [law.speedup(p) / law.speedup(x[0]) for p in x]
        rate = Series(f"{law.law}'s law", x, [base[1] * g for g in gain], look=LAW)
        curves_of.append(
            (rate, Series(rate.name, x, [g * x[0] / p for g, p in zip(gain, x, strict=True)], look=LAW))
        )
    return scaling_plots.scaling(
        title, [rate for rate, _ in curves_of], [share for _, share in curves_of], base
    )
