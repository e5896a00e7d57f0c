"""`hpctrain report STUDY`: what a study found, from its files alone: tables, plots, costs, one HTML page.

Works while the study runs. No torch; asks Slurm only for the energy of a scaling study's jobs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from hpctrain.commands.flags import Parser, refuse_special, whole
from hpctrain.commands.say import console, say
from hpctrain.errors import Foreign, UserError
from hpctrain.scaling.measured import is_scaling
from hpctrain.shown import shown
from hpctrain.storage import ownership
from hpctrain.storage.folders import absolute, check_study
from hpctrain.storage.json_files import replace_text
from hpctrain.storage.run_state import Phase
from hpctrain.storage.search import may_enter, no_such_study, refuse_closed
from hpctrain.sweep import report, results
from hpctrain.sweep.report import Report
from hpctrain.sweep.study_dir import StudyDir


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code. Raises UserError."""
    args = _arguments(argv)
    study = find(args.root, args.study)
    for flag in ("html", "latex"):
        if given := getattr(args, flag):
            refuse_special(f"--{flag}", Path(given))
    return _scaling(study, args) if is_scaling(study) else _sweep(StudyDir(study), args)


def find(root: str, name: str) -> Path:
    """Returns the folder of the study of that name, or at that path. Raises UserError naming the nearest."""
    refuse_closed("run.root", absolute(root), absolute(root))
    for path in (Path(root) / name, Path(name)):
        if path.is_dir() and path.resolve() != Path(root).resolve():
            if not may_enter(path):
                raise UserError(
                    "study", path, f"cannot be read: belongs to {ownership.user(path.stat().st_uid)}"
                )
            StudyDir(path.absolute()).refuse_closed()
            return absolute(path)
    raise no_such_study(root, name)


def _sweep(study: StudyDir, args: argparse.Namespace) -> int:
    for flag in ("latex", "plot", "write_preset"):
        if given := getattr(args, flag):
            shown = study.name if given is True else given
            raise UserError(f"--{flag.replace('_', '-')}", shown, "is for scaling studies")
    seen = report.look(study, args.metric, say)
    for line in results.damage(study):
        say(line)
    if args.csv:
        report.write_table(seen, Path(args.csv), "csv")
    if args.parquet:
        report.write_table(seen, Path(args.parquet), "parquet")
    page = None
    if not args.no_html:
        from hpctrain.sweep.page import study_page

        page = _write_page(study.path, args.html, study_page(seen))
    if args.json:
        print(json.dumps(report.as_json(seen)))
        return 0
    _show(seen, args.top)
    if page:
        print(f"page: {page}")
    return 0


def _show(seen: Report, top: int) -> None:
    from rich.table import Table

    counts = ", ".join(f"{n} {phase}" for phase, n in seen.phases.most_common())
    print(f"study {seen.study.name} ({seen.searched}): {len(seen.rows)} runs: {counts}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    keys = [k for k in seen.params if k != "seed"]
    for name in ("", seen.metric, "± 95 %", "seeds", "epochs", *keys, "vs best"):
        table.add_column(name, overflow="fold", justify="left")
    for place, s in enumerate(seen.settings[:top], 1):
        half = "" if s.half_width is None else f"{s.half_width:.2g}"
        cells = [shown(str(s.params.get(k, ""))) for k in keys]
        table.add_row(
            str(place),
            f"{s.mean:.4g}",
            half,
            str(len(s.results)),
            f"{s.epochs:g}",
            *cells,
            report.like_best(s),
        )
    if seen.settings:
        console().print(table)
    if len(seen.settings) > top:
        print(f"... and {len(seen.settings) - top} more (--top)")
    print(seen.verdict())
    for r in [r for r in seen.rows if r.phase == Phase.FAILED][:5]:
        print(shown(f"failed: {r.run_id}: {r.reason}: {r.detail}"), file=sys.stderr)
    print("; ".join(f"{name} {value}" for name, value in report.cost_facts(seen)))
    if seen.best_line:
        print(shown(f"best: {seen.best_line}"))


def _scaling(study: Path, args: argparse.Namespace) -> int:
    from hpctrain.report import scaling_plots
    from hpctrain.scaling import page, preset
    from hpctrain.scaling import report as scaling_report

    for flag in ("metric", "parquet"):
        if getattr(args, flag):
            raise UserError(f"--{flag}", getattr(args, flag), "is for sweeps")
    plan, analyses = scaling_report.analyse(study, scaling_report.job_j(study))
    if args.write_preset:
        print(preset.write_preset(study.name, plan["cluster"], analyses[0].effects), file=sys.stderr)
    files = {
        args.csv: ("--csv", scaling_report.as_csv(analyses)),
        args.latex: ("--latex", scaling_report.as_latex(plan, analyses)),
    }
    if args.plot:
        scaling_plots.write("--plot", Path(args.plot), page.picture(analyses[0]))
    for name, (flag, text) in files.items():
        if name:
            _write(flag, Path(name), text)
    written = None if args.no_html else _write_page(study, args.html, page.page(study.name, plan, analyses))
    if args.json:
        print(json.dumps(scaling_report.as_json(plan, analyses)))
        return 0
    print(page.text(study.name, plan, analyses))
    if written:
        print(f"page: {written}")
    return 0


def _write_page(study: Path, given: str | None, text: str) -> Path | None:
    """Returns where the page was written: `given`, else the study's folder, unless others have a hand in that."""
    if given:
        _write("--html", Path(given), text)
        return Path(given)
    try:
        with ownership.held(study) as folder:
            _write("--html", folder / "report.html", text)
    except Foreign as error:
        say(f"no page is written: {error.filename} {error.why}; --html FILE puts it elsewhere")
        return None
    return study / "report.html"


def _write(flag: str, path: Path, text: str) -> None:
    try:
        replace_text(path, text)
    except OSError as error:
        raise UserError(flag, path, f"cannot be written ({error.strerror})") from None


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = Parser("report", "What a study found. STUDY is its name (run.study).", "STUDY")
    parser.add_argument("--metric", help="rank by this validation score, in place of sweep.metric")
    parser.add_argument("--top", type=whole(0), default=15, metavar="N", help="rows shown (default: 15)")
    parser.add_json()
    parser.add_argument("--csv", metavar="FILE", help="write one row per run")
    parser.add_argument("--parquet", metavar="FILE", help="the same as Parquet")
    parser.add_argument("--latex", metavar="FILE", help="a scaling study's table for a proposal")
    parser.add_argument("--plot", metavar="FILE", help="a scaling study's curves as a PNG")
    parser.add_argument(
        "--write-preset", action="store_true",
        help="put the settings of the exchange that a scaling study found faster into the cluster's preset",
    )  # fmt: skip
    parser.add_argument("--html", metavar="FILE", help="the page's place (default: runs/STUDY/report.html)")
    parser.add_argument("--no-html", action="store_true", help="do not write the page")
    parser.add_run_place(as_settings=False, study="the same as STUDY")
    args = parser.take(argv, most_words=1)
    args.study = next(iter(args.words), args.study)
    if args.words:
        check_study(args.study)
    if not args.study:
        raise UserError("STUDY", "", f"must be given; {parser.prog} --help says more")
    return args
