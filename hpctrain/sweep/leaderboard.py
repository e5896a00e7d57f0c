"""The leaderboard: results grouped by setting over their seeds, best first, and the study's costs. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hpctrain.report.intervals import interval, like_the_best
from hpctrain.storage.run_state import FINAL, Phase
from hpctrain.sweep.results import Result

PAUSED = "paused"  # the phase of a run that waits at a rung
SEED = "seed"  # tells the runs of one setting apart


@dataclass(frozen=True)
class Setting:
    """One combination of the swept values without the seed. `half_width` belongs to the mean's own 95 % interval.

    That is None for a single seed, or seeds without any spread, which do not show how means scatter. It takes no
    account of how the setting was chosen: of 27 equal settings the best one's holds the true mean in 61 to 88 % of
    studies.

    `results` are the runs that the mean is of, `others` the setting's runs that are not in it: shorter ones, and those
    without a score. `like_best` says whether the setting cannot be told from the best; it is None if there are too few
    seeds.
    """

    params: Mapping[str, Any]
    results: Sequence[Result]
    mean: float
    half_width: float | None
    epochs: float
    like_best: bool | None = None
    others: Sequence[Result] = ()

    @property
    def best_run(self) -> Result:
        """The first seed's run, which stands for the setting."""
        return self.results[0]


def rank(results: Sequence[Result], higher_is_better: bool) -> list[Setting]:
    """Returns the settings, best first. Those that trained longer come first: only equal lengths are compared."""
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for r in results:
        groups.setdefault(tuple((k, repr(v)) for k, v in r.params.items() if k != SEED), []).append(r)
    settings = []
    for group in groups.values():
        longest = max((r.epochs for r in group if r.value is not None), default=None)
        if longest is None:
            continue
        members = [r for r in group if r.value is not None and r.epochs == longest]
        others = [r for r in group if r not in members]
        values = [r.value for r in members if r.value is not None]
        params = {k: v for k, v in members[0].params.items() if k != SEED}
        settings.append(
            Setting(
                params, members, statistics.fmean(values), interval(values) or None, longest, others=others
            )
        )
    pruned = any(r.phase == PAUSED for r in results)
    settings.sort(key=lambda s: (-s.epochs if pruned else 0, -s.mean if higher_is_better else s.mean))
    equals = [s for s in settings if not pruned or s.epochs == settings[0].epochs]
    flags = like_the_best([[r.value for r in s.results if r.value is not None] for s in equals])
    marked = [replace(s, like_best=flag) for s, flag in zip(equals, flags, strict=True)]
    return marked + settings[len(equals) :]


@dataclass(frozen=True)
class Account:
    """Every run of a study, in one of five lists.

    `compared`: in a setting's mean. `shorter`: has a score, but trained less than others of its setting. `unscored`:
    ended without a finite score. `failed`. `open`: without a score so far.
    """

    compared: list[Result]
    shorter: list[Result]
    unscored: list[Result]
    failed: list[Result]
    open: list[Result]


def account(results: Sequence[Result], settings: Sequence[Setting]) -> Account:
    """Returns where each run of the study is, so that none is left out in silence."""
    compared = {r.run_id for s in settings for r in s.results}
    lists = Account([], [], [], [], [])
    for r in results:
        if r.run_id in compared:
            lists.compared.append(r)
        elif r.value is not None:
            lists.shorter.append(r)
        elif r.phase == Phase.FAILED:
            lists.failed.append(r)
        elif r.phase in FINAL or r.phase == PAUSED:
            lists.unscored.append(r)
        else:
            lists.open.append(r)
    return lists


def costs(results: Sequence[Result]) -> dict[str, float]:
    """Returns the rank-hours used (GPU-hours if ranks have GPUs), those of failed and pruned runs, and exaFLOPs."""
    hours = dict.fromkeys(("done", "failed", "paused"), 0.0)
    for r in results:
        hours[r.phase] = hours.get(r.phase, 0.0) + r.seconds * r.ranks / 3600
    return {
        "hours": math.fsum(hours.values()), "failed_hours": hours["failed"], "pruned_hours": hours["paused"],
        "exaflops": math.fsum(r.flops or 0.0 for r in results) / 1e18,
    }  # fmt: skip
