"""What a sweep found, from its files alone: the leaderboard, a verdict, costs, tables for other programs.

Takes a study's folder; reads it, and writes only the tables that are asked for. Works while the study runs.
No torch, no Slurm.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpctrain.config.settings import TaskConfig
from hpctrain.config.swept import Interval, from_json
from hpctrain.config.tasks import TASK_KINDS, scores_of
from hpctrain.errors import UserError, choose, listing
from hpctrain.report import table
from hpctrain.report.axis import Scale
from hpctrain.report.table import Column
from hpctrain.storage.records import validation_records
from hpctrain.storage.run_state import Phase
from hpctrain.storage.search import silent
from hpctrain.sweep import leaderboard, results
from hpctrain.sweep.leaderboard import Setting
from hpctrain.sweep.results import Result, Usage
from hpctrain.sweep.settings import SweepConfig, objective, sweep_config
from hpctrain.sweep.study_dir import StudyDir

NAMED = 4  # runs in a sentence
MOST_SEEDS = 10  # scores in a sentence


class Report:
    """Everything that a report shows."""

    def __init__(
        self,
        study: StudyDir,
        metric: str,
        higher_is_better: bool,
        rows: list[Result],
        use: Usage | None,
        searched: str,
        scales: Mapping[str, Scale] | None = None,
    ) -> None:
        self.study, self.metric, self.higher_is_better = study, metric, higher_is_better
        self.rows, self.use, self.searched = rows, use, searched
        self.settings: list[Setting] = leaderboard.rank(rows, higher_is_better)
        self.account = leaderboard.account(rows, self.settings)
        self.costs = leaderboard.costs(rows)
        self.scales = scales or {}  # of the settings that were drawn from an interval
        self.phases = Counter(r.phase for r in rows)

    @property
    def params(self) -> list[str]:
        """Returns the swept keys, in the order of the command line."""
        return list(self.rows[0].params) if self.rows else []

    @property
    def keys(self) -> list[str]:
        """Returns the swept keys without the seed, which tells the runs of one setting apart."""
        return [key for key in self.params if key != leaderboard.SEED]

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
        """What can be said of the best setting, in sentences: its seeds, and which settings it can be told from."""
        if not self.settings:
            return "No run has a result yet."
        best, *others = self.settings
        values = [r.value for r in best.results if r.value is not None]
        text = f"Best: {self.metric} {best.mean:.4g}, "
        text += (
            f"the mean of {len(values)} seeds ({min(values):.4g} to {max(values):.4g})"
            if values[1:]
            else "one seed"
        )
        going = sum(r.phase == Phase.RUNNING for r in self.account.compared)
        said = [f"{text}.", *_comparison(best, others, bool(self.phases[leaderboard.PAUSED]))]
        return " ".join(
            [*said, *([f"Runs that still train count with their newest score: {going}."] if going else [])]
        )


def _comparison(best: Setting, others: Sequence[Setting], pruned: bool) -> list[str]:
    """Returns sentences that compare the best setting with each other one; with pruning, if they trained as long."""
    equals = [s for s in others if not pruned or s.epochs == best.epochs]
    alike, worse, unknown = (sum(s.like_best is flag for s in equals) for flag in (True, False, None))
    said = []
    if alike:
        many = f"{alike} other settings are" if alike > 1 else "One other setting is"
        said.append(f"{many} not distinguishable from it (≈ best).")
    if worse and not alike and not unknown:
        said.append("It stands alone.")
    if unknown and not any(len(s.results) > 1 for s in (best, *equals)):
        said.append("One seed each: sweep the seed too (seed=0,1,2) to tell settings apart.")
    elif unknown:
        said.append(f"Not to be compared with it, for want of seeds or of any spread: {unknown}.")
    if len(others) > len(equals):
        said.append(f"Stopped earlier, and not compared: {len(others) - len(equals)}.")
    if equals and len(best.results) > 1:
        said.append("It was chosen for its score: new seeds are likely to be less good.")
    return said


def look(study: StudyDir, metric: str | None = None, say: Callable[[str], None] = silent) -> Report:
    """Returns what the study found so far; `say` hears of settings that cannot be read.

    Raises UserError if it has no run, or no run has the metric.
    """
    parts = study.parts() if study.exists() else []
    if parts:
        task, settings = parts[0]["task"], sweep_config(parts[-1]["sweep"])
        searched = f"{settings.sampler}{' with asha' if settings.pruner == 'asha' else ''}"
    else:
        task, settings, searched = TaskConfig().name, SweepConfig(), "runs of this folder"
    if metric and metric != settings.metric:
        settings = replace(settings, metric=metric, mode=None)
    name, higher_is_better = objective(settings, task)
    rows = results.read(study, name) if parts else results.read_plain(study, name, say)
    if not rows:
        raise UserError("study", study.name, "has no runs yet")
    if metric and all(r.value is None for r in rows):
        files = [study.run(r.run_id).metrics_file for r in rows[:50]]
        known = {key for file in files for last in validation_records(file)[-1:] for key in last.scores}
        names = sorted(known & {name for task_name in TASK_KINDS for name in scores_of(task_name)}) or list(
            scores_of(task)
        )
        raise choose("--metric", metric, names)
    use = results.usage(study) if parts else None
    scales: dict[str, Scale] = {
        swept.key.lstrip("+"): "log" if swept.log else "linear"
        for part in parts for swept in from_json(part.get("space", ())) if isinstance(swept, Interval)
    }  # fmt: skip
    return Report(study, name, higher_is_better, rows, use, searched, scales)


def left_out(report: Report) -> list[str]:
    """Returns a sentence for each kind of run that no mean is of, and for each reason to read the means with care."""
    lists, metric = report.account, report.metric
    said = []
    if lists.shorter:
        names = [f"{_name(report, r)}: {r.epochs:g} epochs" for r in lists.shorter]
        said.append(
            f"{_runs(lists.shorter)} trained less than others of the same setting, and no mean counts these: "
            f"{listing(names, NAMED)}."
        )
    if lists.failed:
        said.append(f"{_runs(lists.failed)} failed: no mean counts these.")
    if lists.unscored:
        names = [_name(report, r) for r in lists.unscored]
        said.append(f"{_runs(lists.unscored)} ended without a finite {metric}: {listing(names, NAMED)}.")
    if lists.open:
        said.append(f"{_runs(lists.open)} without a score so far.")
    unfinished = [r for r in lists.compared if r.phase not in (Phase.DONE, leaderboard.PAUSED)]
    if unfinished:
        phases = ", ".join(f"{n} {phase}" for phase, n in Counter(r.phase for r in unfinished).most_common())
        said.append(f"{_runs(unfinished)} did not come to the end so far ({phases}); the last score counts.")
    if len({s.epochs for s in report.settings}) > 1 and "train.epochs" not in report.params:
        paused = sum(r.phase == leaderboard.PAUSED for r in lists.compared)
        said.append(
            f"{paused} runs were stopped at a rung: settings that trained longer come first."
            if paused
            else "The settings trained for different numbers of epochs: see the column."
        )
    return said


def _runs(rows: Sequence[Result]) -> str:
    return f"{len(rows)} run{'s' * (len(rows) != 1)}"


def _name(report: Report, r: Result) -> str:
    return " ".join(f"{key}={r.params.get(key)}" for key in report.params) or r.run_id


def leaderboard_columns(report: Report, top: int) -> list[Column]:
    """Returns the table of the `top` best settings; the seeds are "2 of 3" if a run is not in its setting's mean."""
    shown = report.settings[:top]
    means, halves = [s.mean for s in shown], [s.half_width for s in shown]
    decimals = table.places(means, halves)
    counts = [(len(s.results), len(s.results) + len(s.others)) for s in shown]
    seeds = [str(n) if n == whole else f"{n} of {whole}" for n, whole in counts]
    columns = [
        table.texts("#", list(range(1, len(shown) + 1))),
        table.figures(report.metric, means, decimals),
        table.figures("± 95 %", halves, decimals),
        table.texts("vs best", [like_best(s) for s in shown]),
        Column("seeds", seeds, [n for n, _ in counts]),
        table.texts("epochs", [s.epochs for s in shown]),
        *(_swept(report, key, [s.params.get(key) for s in shown]) for key in report.keys),
    ]
    return [c for c in columns if set(c.cells) - {"", table.UNKNOWN}]  # without seeds nothing is compared


def _swept(report: Report, key: str, values: list[Any]) -> Column:
    """Returns the column of a swept setting: four digits of numbers on a logarithmic scale, else the same decimals."""
    if report.scales.get(key) == "linear" and all(isinstance(v, float) for v in values):
        return table.figures(key, values)
    return table.texts(key, values)


def scores_of_best(report: Report) -> str:
    """Returns the score of each run that the best mean is of, in words."""
    runs = _by_seed(report.settings[0].results)
    cells = table.figures(report.metric, [r.value for r in runs]).cells
    seeded = leaderboard.SEED in report.params
    names = [f"seed {r.params.get(leaderboard.SEED)}" if seeded else r.run_id for r in runs]
    return listing([f"{name} {cell}" for name, cell in zip(names, cells, strict=True)], MOST_SEEDS)


def _by_seed(rows: Sequence[Result]) -> list[Result]:
    seeds = [r.params.get(leaderboard.SEED) for r in rows]
    if not all(isinstance(seed, int) for seed in seeds):
        return list(rows)
    return sorted(
        rows, key=lambda r: r.params[leaderboard.SEED]
    )  # runs of a folder are in the order of their ids


def seeds_of_best(report: Report) -> list[Column]:
    """Returns the table of all runs of the best setting, those that are not in its mean included."""
    best = report.settings[0]
    runs = [*_by_seed(best.results), *_by_seed(best.others)]
    scores = [r.value for r in runs]
    columns = [
        table.figures(report.metric, scores, table.places(scores)),
        table.texts("epochs", [r.epochs for r in runs]),
        table.texts("state", [r.phase for r in runs]),
        table.texts("run", [f"{report.study.name}/{r.run_id}" for r in runs]),
    ]
    if best.others:
        counts = ["yes"] * len(best.results) + ["no"] * len(best.others)
        columns.insert(-1, table.texts("in the mean", counts))
    if leaderboard.SEED in report.params:
        columns.insert(0, table.texts("seed", [r.params.get(leaderboard.SEED) for r in runs]))
    return columns


def table_rows(report: Report) -> list[dict[str, Any]]:
    """Returns one flat row per run."""
    return [
        {
            "run": r.run_id, "phase": r.phase, "reason": r.reason, report.metric: r.value, "epochs": r.epochs,
            **r.params, "rank_hours": r.seconds * r.ranks / 3600, "flops": r.flops,
        }
        for r in report.rows
    ]  # fmt: skip


def write_table(report: Report, path: Path, kind: str) -> None:
    """Write the rows as `csv` or `parquet`. Raises UserError if a package is missing or the path cannot be written."""
    try:
        import pandas
    except ImportError:
        raise UserError(f"--{kind}", path, "needs pandas: pip install 'hpctrain[sweep]'") from None
    frame = pandas.DataFrame(table_rows(report))
    for column in report.params:  # one of names and numbers is one of names
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
        raise UserError(f"--{kind}", path, f"cannot be written ({error.strerror or error})") from None


def as_json(report: Report) -> dict[str, object]:
    """Returns everything for programs."""
    return {
        "study": report.study.name, "metric": report.metric, "mode": "max" if report.higher_is_better else "min",
        "phases": dict(report.phases), "best": report.best_line, "verdict": report.verdict(), "costs": report.costs,
        "slots": None if report.use is None else
        {"seconds": report.use.slots_s, "busy_seconds": report.use.busy_s, "jobs": report.use.jobs},
        "settings": [
            {"params": dict(s.params), "mean": s.mean, "half_width": s.half_width, "epochs": s.epochs,
             "like_best": s.like_best, "runs": [r.run_id for r in s.results],
             "left_out": [r.run_id for r in s.others], "values": [r.value for r in s.results]}
            for s in report.settings
        ],
        "notes": left_out(report), "runs": table_rows(report),
    }  # fmt: skip


def cost_facts(report: Report) -> list[tuple[str, str]]:
    """Returns what the study cost, in words."""
    c, use = report.costs, report.use
    unknown = sum(r.flops is None for r in report.rows)
    facts = [
        ("rank-hours", f"{c['hours']:.3g}"),
        ("of failed runs", f"{c['failed_hours']:.3g} h"),
        ("of pruned runs", f"{c['pruned_hours']:.3g} h"),
        ("exaFLOPs", f"{c['exaflops']:.3g}{f', those of {unknown} runs unknown' if unknown else ''}"),
    ]
    if use is not None and use.slots_s:
        facts.append(("slot time used", f"{100 * use.busy_s / use.slots_s:.0f} %"))
    return facts


def like_best(setting: Setting) -> str:
    """Returns in a word how the setting compares with the best."""
    return {True: "≈ best", False: "worse", None: ""}[setting.like_best]
