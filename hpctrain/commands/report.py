"""`hpctrain report STUDY`: what a study found, from its files alone: tables, plots, costs, one HTML page.

Works while the study runs. No torch; asks Slurm only for the energy of a scaling study's jobs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hpctrain.commands.flags import Parser, refuse_special, whole
from hpctrain.commands.say import say, terminal_width
from hpctrain.errors import Foreign, UserError
from hpctrain.report import table
from hpctrain.report.table import Column
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

MOST_FAILED = 5  # failed runs in a terminal


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
    counts = ", ".join(f"{n} {phase}" for phase, n in seen.phases.most_common())
    print(f"study {seen.study.name} ({seen.searched}): {len(seen.rows)} runs: {counts}")
    if seen.settings[:top]:
        _print_table(report.leaderboard_columns(seen, top))
    if len(seen.settings) > top:
        print(f"... and {len(seen.settings) - top} more (--top)")
    print(seen.verdict())
    if seen.settings and len(seen.settings[0].results) > 1:
        print(f"its runs: {report.scores_of_best(seen)}")
    for sentence in report.left_out(seen):
        print(shown(sentence))
    failed = [r for r in seen.rows if r.phase == Phase.FAILED]
    for r in failed[:MOST_FAILED]:
        print(shown(f"failed: {r.run_id}: {r.reason}: {r.detail}"), file=sys.stderr)
    if len(failed) > MOST_FAILED:
        print(f"failed: {len(failed) - MOST_FAILED} more; the page and --json have all", file=sys.stderr)
    print("; ".join(f"{name} {value}" for name, value in report.cost_facts(seen)))
    if seen.best_line:
        print(shown(f"best: {seen.best_line}"))


def _print_table(columns: Sequence[Column]) -> None:
    """Print the table on stdout, in parts if a terminal is too narrow for it."""
    safe = [replace(column, cells=[shown(cell) for cell in column.cells]) for column in columns]
    print("\n".join(table.lines(safe, terminal_width())))


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
        title = f"Study {study.name}: {page.title(plan, analyses[0])}"
        scaling_plots.write("--plot", Path(args.plot), page.picture(analyses[0], title))
    for name, (flag, text) in files.items():
        if name:
            _write(flag, Path(name), text)
    written = None if args.no_html else _write_page(study, args.html, page.page(study.name, plan, analyses))
    if args.json:
        print(json.dumps(scaling_report.as_json(plan, analyses)))
        return 0
    print(page.text(study.name, plan, analyses, terminal_width()))
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
