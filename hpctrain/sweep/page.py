"""A study as one HTML page: its results, how certain they are, and what they cost. Returns text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hpctrain.report import html, plots
from hpctrain.storage.run_state import Phase
from hpctrain.sweep.report import Report, cost_facts, like_best
from hpctrain.sweep.results import Result

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
        width = "" if best.half_width is None else f" ± {best.half_width:.2g}"
        items = [(f"best {report.metric}", f"{best.mean:.4g}{width}"), ("epochs", f"{best.epochs:g}")]
        items += [(key, html.number(value)) for key, value in best.params.items()]
        blocks.append(html.Facts(items))
    blocks.append(html.Text(report.verdict()))
    if report.best_line:
        blocks.append(html.Code(report.best_line))
    return blocks


def _leaderboard(report: Report) -> list[html.Block]:
    if not report.settings:
        return []
    keys = [k for k in report.params if k != "seed"]
    columns = ["#", report.metric, "± 95 %", "seeds", "epochs", *keys, "vs best"]
    rows: list[Sequence[Any]] = [
        (n, s.mean, s.half_width, len(s.results), s.epochs, *(s.params.get(k) for k in keys), like_best(s))
        for n, s in enumerate(report.settings[:MOST_ROWS], 1)
    ]
    alike = frozenset(n for n, s in enumerate(report.settings[:MOST_ROWS]) if n == 0 or s.like_best)
    blocks: list[html.Block] = [html.Table(columns, rows, alike)]
    if any(s.half_width is not None for s in report.settings):
        blocks.append(
            html.Text(
                "Marked settings (≈ best) are not distinguishable from the best: Games and Howell's test over the "
                "seeds, with an error of 5 % over all pairs. ± is each setting's own; the best mean was chosen for "
                "being high or low, so on new seeds it is likely to be less good."
            )
        )
    if len(report.settings) > MOST_ROWS:
        blocks.append(html.Text(f"{len(report.settings) - MOST_ROWS} more are in hpctrain report --csv."))
    return blocks


def _curves(report: Report, ran: list[Result]) -> list[html.Block]:
    if not ran:
        return []
    best = report.settings[0].best_run.run_id
    place = next(n for n, r in enumerate(ran) if r.run_id == best)
    png = plots.learning_curves([r.curve for r in ran], [r.value for r in ran], place, report.metric)
    return [html.Picture(png, f"validation {report.metric} of every run over its epochs")]


def _parameters(report: Report, ran: list[Result]) -> list[html.Block]:
    keys = [k for k in report.params if len({repr(r.params.get(k)) for r in ran}) > 1]
    if len(ran) < 2 or not keys:
        return []
    params = {key: [r.params.get(key) for r in ran] for key in keys}
    values = [r.value for r in ran if r.value is not None]
    blocks: list[html.Block] = []
    shares = importance(params, values, report.higher_is_better)
    if shares:
        caption = "Share of the variation among the better runs (PED-ANOVA, Watanabe et al. 2023, by Optuna)."
        blocks.append(html.Picture(plots.bars(shares, "importance"), "importance of each setting", caption))
    slices = [
        html.Picture(
            plots.slice_of(key, given, values, report.metric), f"{report.metric} over {key}", wide=False
        )
        for key, given in params.items()
    ]
    blocks.append(html.Grid(slices))
    if len(keys) > 1:
        png = plots.parallel_coordinates(params, values, report.metric, report.higher_is_better)
        blocks.append(html.Picture(png, "one line per run through all settings to the metric"))
    return blocks


def importance(params: dict[str, list[Any]], values: list[float], higher_is_better: bool) -> dict[str, float]:
    """Returns how much each setting matters, by Optuna; {} without Optuna or with too few runs."""
    try:
        from hpctrain.sweep.samplers import importances
    except ImportError:
        return {}
    return importances(params, values, higher_is_better) if len(values) >= 10 else {}


def _failed(rows: list[Result]) -> list[html.Block]:
    failed = [(r.run_id, r.reason, r.detail, " ".join(r.overrides)) for r in rows if r.phase == Phase.FAILED]
    return [html.Table(["run", "reason", "detail", "settings"], failed[:MOST_ROWS])] if failed else []
