"""`hpctrain report STUDY`: what a study found, from its files alone: tables, plots, costs, one HTML page.

Takes a study's name; prints the leaderboard, writes runs/<study>/report.html and what else was asked for.
Works while the study runs. No torch, no Slurm.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from hpctrain.errors import UserError, choose, nearest
from hpctrain.scaling.measured import is_scaling
from hpctrain.storage.records import validation_records
from hpctrain.storage.run_dir import replace_text
from hpctrain.sweep import leaderboard, results
from hpctrain.sweep.leaderboard import Setting
from hpctrain.sweep.results import Result, Usage
from hpctrain.sweep.study_dir import StudyDir


def report(argv: list[str]) -> int:
    """The command."""
    args = _parser().parse_args(argv)
    study = find(args.root, args.study)
    if is_scaling(study.path):
        from hpctrain.scaling.page import report_scaling

        return report_scaling(study.path, args)
    for flag in ("latex", "plot", "write_preset"):
        if given := getattr(args, flag):
            shown = study.name if given is True else given
            raise UserError(f"--{flag.replace('_', '-')}", shown, "is for scaling studies")
    found = look(study, args.metric)
    if args.csv:
        write_table(found, Path(args.csv), "csv")
    if args.parquet:
        write_table(found, Path(args.parquet), "parquet")
    page = Path(args.html) if args.html else study.path / "report.html"
    if not args.no_html:
        from hpctrain.sweep.page import study_page

        try:
            replace_text(page, study_page(found))
        except OSError as error:
            raise UserError("--html", page, f"cannot be written ({error.strerror})") from None
    if args.json:
        print(json.dumps(as_json(found)))
        return 0
    print_report(found, args.top)
    if not args.no_html:
        print(f"page: {page}")
    return 0


class Found:
    """Everything that a report shows."""

    def __init__(
        self,
        study: StudyDir,
        metric: str,
        more: bool,
        rows: list[Result],
        use: Usage | None,
        searched: str,
    ) -> None:
        self.study, self.metric, self.more, self.rows, self.use = study, metric, more, rows, use
        self.searched = searched
        self.settings: list[Setting] = leaderboard.rank(rows, more)
        self.costs = leaderboard.costs(rows)
        self.phases = Counter(r.phase for r in rows)

    @property
    def params(self) -> list[str]:
        return list(self.rows[0].params) if self.rows else []

    @property
    def best_line(self) -> str | None:
        """The best setting as a command to repeat it; of runs that no `sweep` has made, its configuration's file."""
        if not self.settings:
            return None
        best = self.settings[0].best_run
        if self.use is None:
            return str(self.study.run(best.run_id).config_file)
        fixed = [o for o in best.fixed if not o.startswith(("sweep=", "sweep.", "run.study="))]
        return shlex.join(["hpctrain", "submit", *fixed, *best.overrides])

    def verdict(self) -> str:
        """What can be said of the best setting, in a sentence."""
        if not self.settings:
            return "No run has a result yet."
        best = self.settings[0]
        if best.half_width is None:
            return "One seed each: no intervals. Sweep the seed too (seed=0,1,2) to tell settings apart."
        alike = sum(s.like_best is True for s in self.settings)
        others = f"{alike} other settings are" if alike > 1 else "One other setting is"
        seeds = f"95 % interval, {len(best.results)} seeds"
        text = f"Best: {self.metric} {best.mean:.4g} ± {best.half_width:.2g} ({seeds})."
        return (
            f"{text} {others} not distinguishable from it (≈ best)." if alike else f"{text} It stands alone."
        )


def find(root: str, name: str) -> StudyDir:
    """The study of that name, or at that path. Raises UserError naming the nearest."""
    for path in (Path(root) / name, Path(name)):
        if path.is_dir() and path.resolve() != Path(root).resolve():
            return StudyDir(path.resolve())
    names = [p.name for p in Path(root).glob("*/")] if Path(root).is_dir() else []
    raise UserError("study", name, f"no such study in {root}", nearest(name, names))


def look(study: StudyDir, metric: str | None = None) -> Found:
    """Read a study. Raises UserError where it has no run, or no run has the metric."""
    from hpctrain.sweep.settings import METRICS, objective

    parts = study.parts() if study.exists() else []
    if parts:
        task, given = parts[0]["task"], dict(parts[-1]["sweep"])
        searched = f"{given['sampler']}{' with asha' if given['pruner'] == 'asha' else ''}"
    else:
        task, given, searched = "classification", {}, "runs of this folder"
    if metric and metric != given.get("metric"):
        given |= {"metric": metric, "mode": None}
    name, more = objective(given, task)
    rows = results.read(study, name) if parts else results.read_plain(study, name)
    if not rows:
        raise UserError("study", study.name, "has no runs yet")
    if metric and all(r.value is None for r in rows):
        files = [study.run(r.run_id).metrics_file for r in rows[:50]]
        known = {key for file in files for last in validation_records(file)[-1:] for key in last.scores}
        names = sorted(known & {m for metrics in METRICS.values() for m in metrics}) or list(METRICS[task])
        raise choose("--metric", metric, names)
    use = results.usage(study) if parts else None
    return Found(study, name, more, rows, use, searched)


def table_rows(found: Found) -> list[dict[str, Any]]:
    """One flat row a run."""
    return [
        {
            "run": r.run_id, "phase": r.phase, "reason": r.reason, found.metric: r.value, "epochs": r.epochs,
            **r.params, "rank_hours": r.seconds * r.ranks / 3600, "flops": r.flops,
        }
        for r in found.rows
    ]  # fmt: skip


def write_table(found: Found, path: Path, kind: str) -> None:
    try:
        import pandas
    except ImportError:
        raise UserError(f"--{kind}", path, "needs pandas: pip install 'hpctrain[sweep]'") from None
    frame = pandas.DataFrame(table_rows(found))
    for column in found.params:  # one of names and numbers is one of names
        if frame[column].map(type).nunique() > 1:
            frame[column] = frame[column].map(str)
    try:
        if kind == "csv":
            frame.to_csv(path, index=False)
        else:
            frame.to_parquet(path, index=False)
    except ImportError:
        raise UserError("--parquet", path, "needs pyarrow: pip install 'hpctrain[sweep]'") from None
    except OSError as error:
        raise UserError(f"--{kind}", path, f"cannot be written ({error.strerror})") from None


def as_json(found: Found) -> dict[str, Any]:
    return {
        "study": found.study.name, "metric": found.metric, "mode": "max" if found.more else "min",
        "phases": dict(found.phases), "best": found.best_line, "verdict": found.verdict(), "costs": found.costs,
        "slots": None if found.use is None else
        {"seconds": found.use.slots_s, "busy_seconds": found.use.busy_s, "jobs": found.use.jobs},
        "settings": [
            {"params": dict(s.params), "mean": s.mean, "half_width": s.half_width, "epochs": s.epochs,
             "like_best": s.like_best, "runs": [r.run_id for r in s.results],
             "values": [r.value for r in s.results]}
            for s in found.settings
        ],
        "runs": table_rows(found),
    }  # fmt: skip


def cost_facts(found: Found) -> list[tuple[str, str]]:
    """What the study cost, in words."""
    c, use = found.costs, found.use
    facts = [
        ("rank-hours", f"{c['hours']:.3g}"),
        ("of failed runs", f"{c['failed_hours']:.3g} h"),
        ("of pruned runs", f"{c['pruned_hours']:.3g} h"),
        ("exaFLOPs", f"{c['exaflops']:.3g}"),
    ]
    if use is not None and use.slots_s:
        facts.append(("slot time used", f"{100 * use.busy_s / use.slots_s:.0f} %"))
    return facts


def like_best(setting: Setting) -> str:
    return {True: "≈ best", False: "worse", None: ""}[setting.like_best]


def print_report(found: Found, top: int) -> None:
    from rich.console import Console
    from rich.table import Table

    counts = ", ".join(f"{n} {phase}" for phase, n in found.phases.most_common())
    print(f"study {found.study.name} ({found.searched}): {len(found.rows)} runs: {counts}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    keys = [k for k in found.params if k != "seed"]
    for name in ("", found.metric, "± 95 %", "seeds", "epochs", *keys, "vs best"):
        table.add_column(name, overflow="fold", justify="left")
    for place, s in enumerate(found.settings[:top], 1):
        half = "" if s.half_width is None else f"{s.half_width:.2g}"
        cells = [str(s.params.get(k, "")) for k in keys]
        table.add_row(
            str(place), f"{s.mean:.4g}", half, str(len(s.results)), f"{s.epochs:g}", *cells, like_best(s)
        )
    if found.settings:
        Console().print(table)
    if len(found.settings) > top:
        print(f"... and {len(found.settings) - top} more (--top)")
    print(found.verdict())
    for r in [r for r in found.rows if r.phase == "failed"][:5]:
        print(f"failed: {r.run_id}: {r.reason}: {r.detail}", file=sys.stderr)
    print("; ".join(f"{name} {value}" for name, value in cost_facts(found)))
    if found.best_line:
        print(f"best: {found.best_line}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hpctrain report", description="what a study found")
    parser.add_argument("study", metavar="STUDY", help="its name (run.study), or a path")
    parser.add_argument("--root", default="runs", help="where the runs are (default: runs)")
    parser.add_argument("--metric", help="rank by this figure of the validation instead")
    parser.add_argument("--top", type=int, default=15, help="rows shown (default: 15)")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--csv", metavar="FILE", help="write one row a run")
    parser.add_argument("--parquet", metavar="FILE", help="the same as Parquet")
    parser.add_argument("--latex", metavar="FILE", help="a scaling study's table for a proposal")
    parser.add_argument("--plot", metavar="FILE", help="a scaling study's curves as a PNG")
    parser.add_argument(
        "--write-preset", action="store_true",
        help="put the settings of the exchange that a scaling study found faster into the cluster's preset",
    )  # fmt: skip
    parser.add_argument("--html", metavar="FILE", help="the page's place (default: runs/STUDY/report.html)")
    parser.add_argument("--no-html", action="store_true", help="do not write the page")
    return parser
