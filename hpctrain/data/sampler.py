"""Which samples each rank sees at a step: pure index arithmetic, no state, no I/O.

An epoch is a permutation of the samples, or streams through them; step s takes the s-th global batch of
it, and rank r the r-th of `size` nearly equal parts of that batch. So the global batches do not depend on
the number of ranks, each sample is seen exactly once an epoch, and the last batch holds what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """A rank's part of one global batch: its indices, and the number of samples of all ranks.

    `fresh`: these samples do not follow those of the step before (in a streams' order, the others do).
    """

    indices: Indices
    global_count: int
    fresh: bool = True
    ranks: int = 1

    def micro_batches(self, batch_size: int) -> list[slice]:
        """Its samples in nearly equal parts of at most `batch_size`: as many as on any rank, if there are enough."""
        count = len(self.indices)
        parts = self._most(batch_size) if self.in_step(batch_size) else -(-count // batch_size)
        return [part(count, number, parts) for number in range(parts)]

    def in_step(self, batch_size: int) -> bool:
        """Whether all ranks have as many parts, and none of them is empty."""
        return self._most(batch_size) * self.ranks <= self.global_count

    def _most(self, batch_size: int) -> int:
        """Parts of the rank with the most samples."""
        largest = -(-self.global_count // self.ranks)
        return -(-largest // batch_size)


def steps_per_epoch(samples: int, effective_batch: int) -> int:
    """Optimiser steps of one pass; the tail counts as one."""
    return -(-samples // effective_batch)


def epoch_order(samples: int, seed: int, epoch: int, shuffle: bool, streams: int = 1) -> Indices:
    """The order of one epoch, (samples,). Equal for equal seed and epoch on every rank and machine.

    Samples that are not shuffled are read as `streams` streams, one for each place in a global batch.
    """
    if not shuffle:
        return stream_order(samples, streams)
    # PCG64 through Generator.permutation is stable across platforms for one NumPy stream version.
    return np.random.default_rng([seed, epoch]).permutation(samples).astype(np.int64, copy=False)


def stream_order(samples: int, streams: int) -> Indices:
    """Samples cut into `streams` contiguous runs of one length, a sample of each in turn; then what is left.

    Place b of every batch of `streams` samples goes through run b in its natural order.
    """
    length = samples // streams
    whole = np.arange(length * streams, dtype=np.int64).reshape(streams, length).T.ravel()
    return np.concatenate([whole, np.arange(length * streams, samples, dtype=np.int64)])


def share(order: Indices, step: int, effective_batch: int, rank: int, size: int) -> Share:
    """Rank `rank`'s part of global batch `step` (within the epoch)."""
    batch = order[step * effective_batch : (step + 1) * effective_batch]
    fresh = step == 0 or len(batch) < effective_batch
    return Share(batch[part(len(batch), rank, size)], len(batch), fresh, size)


def shares(
    order_of: Callable[[int], Indices],
    steps: range,
    per_epoch: int,
    effective_batch: int,
    rank: int,
    size: int,
) -> Iterator[tuple[int, Share]]:
    """Of each step of a run: its epoch, and rank `rank`'s share. `order_of(epoch)` is asked once per epoch."""
    order = lru_cache(maxsize=1)(order_of)
    for step in steps:
        epoch, place = divmod(step, per_epoch)
        yield epoch, share(order(epoch), place, effective_batch, rank, size)


def part(count: int, rank: int, size: int) -> slice:
    """The r-th of `size` contiguous parts of `count` things; parts differ by one at most."""
    return slice(count * rank // size, count * (rank + 1) // size)
