"""Asynchronous successive halving as pure functions (Li et al. 2020, arXiv:1810.05934, algorithm 2).

A run stops at rungs, after r, rη, rη², ... epochs. Whenever a slot is free, the best run that belongs to the best
1/η of a rung's results so far and has not gone on yet may go on to the next; nothing waits for a rung to fill.
The paper draws from an endless supply and prefers the highest rung. A study is a finite list: here what is lowest
comes first, so that each choice is made with all results that there can be, and fewer runs go on in vain. No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set


def rung_epochs(first: int, reduction: int, last: int) -> list[int]:
    """The epochs at which a run of `last` epochs stops: `first`, times `reduction` each, and `last`."""
    found = []
    while first < last:
        found.append(first)
        first *= reduction
    return [*found, last]


def promotable(
    results: Sequence[Mapping[str, float | None]],
    started: Sequence[Set[str]],
    reduction: int,
    more_is_better: bool,
) -> list[tuple[str, int]]:
    """The runs that may go on, with the rung they go to; the lowest rung first, in it the best first.

    `results[k]`: the metric of each run that has ended rung k, None for one that failed there (it counts,
    and never goes on). `started[k]`: the runs that have started rung k.
    """
    found = []
    for rung in range(len(results) - 1):
        scored = [
            (value, run) for run, value in results[rung].items() if value is not None and value == value
        ]
        scored.sort(key=lambda pair: (-pair[0] if more_is_better else pair[0], pair[1]))
        best = scored[: len(results[rung]) // reduction]
        found += [(run, rung + 1) for _, run in best if run not in started[rung + 1]]
    return found
