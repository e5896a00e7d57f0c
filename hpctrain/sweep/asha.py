"""Asynchronous successive halving as pure functions (Li et al. 2020, arXiv:1810.05934, algorithm 2).

A run stops at rungs, after r, rη, rη², ... epochs. Whenever a slot is free, the best run among the best 1/η of a
rung's results so far that has not been promoted yet may go on to the next rung; nothing waits for a rung to fill.
The paper draws from an endless supply and prefers the highest rung. A study is a finite list: here the lowest rung
comes first, so that each choice uses as many results as possible and fewer runs are promoted in vain. No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set


def rung_epochs(first: int, reduction: int, last: int) -> list[int]:
    """Returns the epochs at which a run of `last` epochs stops: `first`, multiplied by `reduction` up to `last`."""
    rungs = []
    while first < last:
        rungs.append(first)
        first *= reduction
    return [*rungs, last]


def survivors(runs: int, rungs: Sequence[int], reduction: int) -> list[int]:
    """Returns how many of `runs` start each of the rungs if one in `reduction` goes on, as synchronous halving would.

    Asynchronous halving promotes a few more: a run that was among the best of the first results need not stay so.
    """
    counts = [runs]
    for _ in rungs[1:]:
        counts.append(counts[-1] // reduction)
    return counts


def share_of_epochs(runs: int, rungs: Sequence[int], reduction: int) -> float:
    """Returns the share of all epochs of all runs that such a study trains."""
    stretches = (later - earlier for earlier, later in zip([0, *rungs], rungs, strict=False))
    trained = sum(
        count * epochs for count, epochs in zip(survivors(runs, rungs, reduction), stretches, strict=True)
    )
    return trained / (runs * rungs[-1])


def promotable(
    results: Sequence[Mapping[str, float | None]],
    started: Sequence[Set[str]],
    reduction: int,
    higher_is_better: bool,
) -> list[tuple[str, int]]:
    """Returns the runs that may go on, with the rung that they go to: lowest rung first, best run first.

    `results[k]` holds the metric of each run that has ended rung k; None for one that failed there, which counts
    but is never promoted. `started[k]` holds the runs that have started rung k.
    """
    promoted = []
    for rung in range(len(results) - 1):
        scored = [
            (value, run) for run, value in results[rung].items() if value is not None and value == value
        ]
        scored.sort(key=lambda pair: (-pair[0] if higher_is_better else pair[0], pair[1]))
        best = scored[: len(results[rung]) // reduction]
        promoted += [(run, rung + 1) for _, run in best if run not in started[rung + 1]]
    return promoted
