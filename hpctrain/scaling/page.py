"""A scaling study for people: on the terminal, and as one HTML page. Takes the figures of report.py; returns text."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpctrain.commands.predict import curves
from hpctrain.errors import UserError
from hpctrain.report import html, scaling_plots
from hpctrain.report.scaling_plots import Series
from hpctrain.scaling import comm_settings, measured, report
from hpctrain.scaling.comm_settings import Effect
from hpctrain.scaling.laws import PARTS, Row
from hpctrain.scaling.report import HEADS, Figures, cells, errors_line, law_line, shown
from hpctrain.scheduler import client
from hpctrain.storage.run_dir import replace_text


def report_scaling(study: Path, args: argparse.Namespace) -> int:
    """Runs `hpctrain report` for a scaling study and returns the exit code. Raises UserError."""
    for flag in ("metric", "parquet"):
        if getattr(args, flag):
            raise UserError(f"--{flag}", getattr(args, flag), "is for sweeps")
    plan, results = report.analyse(study, _job_j(study))
    if args.write_preset:
        print(write_preset(study.name, plan["cluster"], results[0].effects), file=sys.stderr)
    files = {
        args.csv: ("--csv", report.as_csv(results)),
        args.latex: ("--latex", report.as_latex(plan, results)),
    }
    if args.plot:
        scaling_plots.write("--plot", Path(args.plot), picture(results[0]))
    if not args.no_html:
        files[args.html or str(study / "report.html")] = ("--html", page(study.name, plan, results))
    for name, (flag, text) in files.items():
        if name:
            _write(flag, Path(name), text)
    if args.json:
        print(json.dumps(report.as_json(plan, results)))
        return 0
    print_study(study.name, plan, results)
    if not args.no_html:
        print(f"page: {args.html or study / 'report.html'}")
    return 0


def _job_j(study: Path) -> dict[str, float]:
    """Returns Slurm's joules by job, for runs that measured none themselves."""
    plan = measured.read_plan(study)
    cluster = plan["config"]["cluster"]
    if cluster.get("slurm_conf") and not Path(cluster["slurm_conf"]).expanduser().exists():
        return {}  # the cluster no longer exists
    return client.energy_j(measured.job_ids(study, plan), cluster.get("slurm_conf"))


def write_preset(study: str, cluster: str, effects: Sequence[Effect]) -> str:
    """Writes the best comm settings into the cluster's preset; returns a line on what was done. Raises UserError."""
    from hpctrain.config.compose import conf_dir

    if not effects:
        raise UserError(
            "--write-preset", study, "tried no comm settings: run hpctrain scale with scaling.knobs"
        )
    chosen = comm_settings.best(effects)
    path = conf_dir() / "cluster" / f"{cluster}.yaml"
    if not chosen:
        return f"{path}: left as it is, no setting is faster beyond the noise"
    if not path.is_file():
        raise UserError("--write-preset", cluster, f"has no preset {path}")
    _write(
        "--write-preset", path, comm_settings.with_comm(path.read_text(), chosen, f"hpctrain report {study}")
    )
    return f"{path}: " + " ".join(f"comm.{key}={comm_settings.word(value)}" for key, value in chosen.items())


def _write(flag: str, path: Path, text: str) -> None:
    try:
        replace_text(path, text)
    except OSError as error:
        raise UserError(flag, path, f"cannot be written ({error.strerror})") from None


def print_study(name: str, plan: dict[str, Any], results: Sequence[Figures]) -> None:
    """Prints the study's results to the terminal."""
    for f in results:
        print(f"study {name}: {_title(plan, f)}")
        rows = [HEADS, *(cells(row) for row in f.table)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)))
        for line in [*_lines(f), *(f"gap: {gap}" for gap in f.missing)]:
            print(line)
        for name, change, predicted in map(_effect, f.effects):
            print(f"  {name:32} {change:>16} samples/s{predicted and f', the model says {predicted}'}")


def page(name: str, plan: dict[str, Any], results: Sequence[Figures]) -> str:
    """Returns the study's page as HTML."""
    kept = "the effective batch is fixed" if plan["mode"] == "strong" else "the batch per GPU is fixed"
    subtitle = (
        f"{plan['mode']} scaling ({kept}) of {plan['experiment']} on {plan['cluster']}; ± are 95 % intervals"
    )
    sections = [html.Section(_title(plan, f), _blocks(f)) for f in results]
    return html.page(f"Study {name}", subtitle, sections)


def _title(plan: dict[str, Any], f: Figures) -> str:
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


def _split(row: Row, parts: Sequence[str]) -> list[Any]:
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
