"""A study as one HTML page: its results, how certain they are, and what they cost. Returns text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hpctrain.report import html, plots, table
from hpctrain.report.axis import Axis, axis
from hpctrain.storage.run_state import Phase
from hpctrain.sweep.leaderboard import PAUSED
from hpctrain.sweep.report import Report, cost_facts, leaderboard_columns, left_out, seeds_of_best
from hpctrain.sweep.results import Result

LONGEST = 60  # letters of a value beside the result; the command has all
MOST_ROWS = 200  # of the leaderboard on the page; tables for programs have all


def study_page(report: Report) -> str:
    """Returns the study's page as HTML."""
    ran = [r for r in report.rows if r.value is not None]
    counts = ", ".join(f"{n} {phase}" for phase, n in report.phases.most_common())
    sections = [
        html.Section("Result", _result(report)),
        html.Section("Leaderboard", _leaderboard(report)),
        html.Section("Learning curves", _curves(report, ran)),
        html.Section("What matters", _parameters(report, ran)),
        html.Section("Cost", [html.Facts(cost_facts(report))]),
        html.Section("Failed runs", _failed(report.rows)),
    ]
    better = "more" if report.higher_is_better else "less"
    subtitle = f"{len(report.rows)} runs ({counts}), {report.searched}; {report.metric}: {better} is better"
    return html.page(f"Study {report.study.name}", subtitle, sections)


def _result(report: Report) -> list[html.Block]:
    blocks: list[html.Block] = []
    if report.settings:
        best = report.settings[0]
        items = [
            (f"best {report.metric}", f"{best.mean:.4g}"),
            ("epochs", f"{best.epochs:g}"),
        ]
        items += [
            (key, table.shortened(table.texts(key, [value]).cells[0], LONGEST))
            for key, value in best.params.items()
        ]
        blocks.append(html.Facts(items))
    blocks.append(html.Text(report.verdict()))
    if report.settings:
        blocks.append(html.Text("The runs of the best setting:"))
        blocks.append(html.Table(seeds_of_best(report)))
    if report.best_line:
        blocks.append(html.Code(report.best_line))
    return blocks


def _leaderboard(report: Report) -> list[html.Block]:
    blocks: list[html.Block] = [html.Text(sentence) for sentence in left_out(report)]
    if not report.settings:
        return blocks
    alike = frozenset(n for n, s in enumerate(report.settings[:MOST_ROWS]) if n == 0 or s.like_best)
    blocks.insert(0, html.Table(leaderboard_columns(report, MOST_ROWS), alike))
    if len(report.settings) > MOST_ROWS:
        blocks.insert(1, html.Text(f"{len(report.settings) - MOST_ROWS} more are in hpctrain report --csv."))
    if any(s.half_width is not None for s in report.settings):
        blocks.append(
            html.Text(
                "Marked settings (≈ best) are not distinguishable from the best: Games and Howell's test over the "
                "seeds, with an error of 5 % over all pairs. ± is of each setting by itself, as if nobody had looked "
                "at the others: for the first rows, which were chosen for their means, it is too narrow."
            )
        )
    return blocks


def _curves(report: Report, ran: list[Result]) -> list[html.Block]:
    if not ran:
        return []
    best = {r.run_id for r in report.settings[0].results}
    places = {n for n, r in enumerate(ran) if r.run_id in best}
    name = report.metric
    found = plots.scores(name, [r.value for r in ran if r.value is not None], report.higher_is_better)
    title = f"Study {report.study.name}: validation {name} of {len(ran)} run{'s' * (len(ran) > 1)}"
    png = plots.learning_curves([r.curve for r in ran], found, places, title)
    return [html.Picture(png, f"validation {name} of every run over its epochs", "Dark lines end well.")]


def _parameters(report: Report, ran: list[Result]) -> list[html.Block]:
    keys = [k for k in report.keys if len({repr(r.params.get(k)) for r in ran}) > 1]
    epochs, values = at_equal_length(ran)
    rows = [r for r in ran if r.run_id in values]
    if len(rows) < 2 or not keys:
        return []
    name, study = report.metric, report.study.name
    axes = {key: axis([r.params.get(key) for r in rows], report.scales.get(key)) for key in keys}
    found = plots.scores(name, [values[r.run_id] for r in rows], report.higher_is_better)
    blocks: list[html.Block] = []
    if len({r.epochs for r in ran}) > 1:
        without = len(ran) - len(rows)
        said = f"Runs of unequal length: here {name} is that of epoch {epochs:g}"
        said += f"; {without} run{'s' * (without > 1)} without a score there left out." if without else "."
        blocks.append(html.Text(said))
    shares = importance({key: [r.params.get(key) for r in rows] for key in keys}, found, axes)
    if shares:
        caption = "Share of the variation among the better runs (PED-ANOVA, Watanabe et al. 2023, by Optuna)."
        png = plots.bars(shares, f"Study {study}: which setting changes {name}", "share of the variation")
        blocks.append(html.Picture(png, "importance of each setting", caption))
    slices = [
        html.Picture(plots.slice_of(key, swept, found), f"{name} over {key}", wide=False)
        for key, swept in axes.items()
    ]
    blocks.append(html.Grid(slices))
    if len(keys) > 1:
        png = plots.parallel_coordinates(
            axes, found, f"Study {study}: all settings and {name}, a line per run"
        )
        blocks.append(html.Picture(png, "one line per run through all settings to the metric"))
    return blocks


def at_equal_length(ran: Sequence[Result]) -> tuple[float, dict[str, float]]:
    """Returns (epochs, the score of each run after so many epochs): the most epochs that all runs have trained which
    went as far as they should, so that what is compared is the settings and not the lengths.

    `ran` are runs with a score. Runs that were cut short before are left out.
    """
    planned = [r.epochs for r in ran if r.phase in (Phase.DONE, PAUSED)]
    epochs = min(planned or [r.epochs for r in ran], default=0.0)
    if all(r.epochs == epochs for r in ran):
        return epochs, {r.run_id: r.value for r in ran if r.value is not None}
    scores = {r.run_id: dict(r.curve).get(epochs, math.nan) for r in ran}
    return epochs, {run_id: score for run_id, score in scores.items() if math.isfinite(score)}


def importance(
    params: Mapping[str, Sequence[Any]], found: plots.Scores, axes: Mapping[str, Axis]
) -> dict[str, float]:
    """Returns how much each setting matters, by Optuna; {} without Optuna, for one setting, or with too few runs."""
    try:
        from hpctrain.sweep.samplers import importances
    except ImportError:
        return {}
    if len(found.values) < 10 or len(params) < 2:
        return {}
    log = {key for key, swept in axes.items() if swept.scale == "log"}
    return importances(params, found.values, found.higher_is_better, log)


def _failed(rows: list[Result]) -> list[html.Block]:
    failed = [r for r in rows if r.phase == Phase.FAILED]
    if not failed:
        return []
    shown = failed[:MOST_ROWS]
    columns = [
        table.texts("run", [r.run_id for r in shown]),
        table.texts("reason", [r.reason for r in shown]),
        table.texts("settings", [" ".join(r.overrides) for r in shown]),
        table.texts("detail", [r.detail for r in shown]),
    ]
    more = [html.Text(f"{len(failed) - MOST_ROWS} more are in hpctrain report --csv.")] * (
        len(failed) > MOST_ROWS
    )
    return [html.Table(columns), *more]
