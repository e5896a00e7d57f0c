"""From results to what is compared: settings with their seeds together, best first; what it all cost. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hpctrain.report.intervals import interval, like_the_best
from hpctrain.sweep.results import Result


@dataclass(frozen=True)
class Setting:
    """One combination of what was swept, seeds aside. `half_width` is that of the 95 % interval of the mean.

    `like_best`: whether it cannot be told from the best; None if seeds are too few to say.
    """

    params: Mapping[str, Any]
    results: Sequence[Result]
    mean: float
    half_width: float | None
    epochs: float
    like_best: bool | None = None

    @property
    def best_run(self) -> Result:
        """The run to take: the first seed's."""
        return self.results[0]


def rank(results: Sequence[Result], more_is_better: bool) -> list[Setting]:
    """Settings best first. What trained longer comes before what was stopped early: only equals are compared."""
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for r in results:
        if r.value is not None:
            groups.setdefault(tuple((k, repr(v)) for k, v in r.params.items() if k != "seed"), []).append(r)
    found = []
    for members in groups.values():
        longest = max(r.epochs for r in members)
        members = [r for r in members if r.epochs == longest]
        values = [r.value for r in members if r.value is not None]
        params = {k: v for k, v in members[0].params.items() if k != "seed"}
        found.append(Setting(params, members, statistics.fmean(values), interval(values), longest))
    pruned = any(r.phase == "paused" for r in results)
    found.sort(key=lambda s: (-s.epochs if pruned else 0, -s.mean if more_is_better else s.mean))
    equals = [s for s in found if not pruned or s.epochs == found[0].epochs]
    flags = like_the_best([[r.value for r in s.results if r.value is not None] for s in equals])
    marked = [replace(s, like_best=flag) for s, flag in zip(equals, flags, strict=True)]
    return marked + found[len(equals) :]


def costs(results: Sequence[Result]) -> dict[str, float]:
    """Rank-hours (GPU-hours, where a rank has a GPU) used; what of it went to failed and to pruned runs; FLOPs."""
    hours = dict.fromkeys(("done", "failed", "paused"), 0.0)
    for r in results:
        hours[r.phase] = hours.get(r.phase, 0.0) + r.seconds * r.ranks / 3600
    return {
        "hours": math.fsum(hours.values()), "failed_hours": hours["failed"], "pruned_hours": hours["paused"],
        "exaflops": math.fsum(r.flops for r in results) / 1e18,
    }  # fmt: skip
