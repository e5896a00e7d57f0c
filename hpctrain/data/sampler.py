"""Which samples each rank sees in each step: pure index arithmetic, no state, no I/O.

An epoch is a permutation of the samples, or streams through them. Step s takes the epoch's s-th global batch,
and rank r the r-th of `size` nearly equal parts of that batch. So the global batches do not depend on the number
of ranks, each sample is seen exactly once per epoch, and the last batch holds what is left, unless it is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hpctrain.errors import UserError

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """A rank's part of one global batch: its indices, and the number of samples of all ranks.

    `fresh`: if samples are read as streams, these do not continue those of the previous step.
    """

    indices: Indices
    global_count: int
    fresh: bool = True
    ranks: int = 1

    def micro_batches(self, batch_size: int) -> list[slice]:
        """Returns nearly equal parts of at most `batch_size` samples; if there are enough samples, as many parts
        as on every other rank."""
        count = len(self.indices)
        parts = self._most(batch_size) if self.in_step(batch_size) else -(-count // batch_size)
        return [part(count, number, parts) for number in range(parts)]

    def in_step(self, batch_size: int) -> bool:
        """Returns whether all ranks have equally many micro-batches, none of them empty."""
        return self._most(batch_size) * self.ranks <= self.global_count

    def _most(self, batch_size: int) -> int:
        """Returns the number of micro-batches of the rank with the most samples."""
        largest = -(-self.global_count // self.ranks)
        return -(-largest // batch_size)


def steps_per_epoch(samples: int, effective_batch: int, drop_last: bool = False) -> int:
    """Returns the optimiser steps per epoch; an incomplete last batch counts as one, unless it is dropped.

    Raises UserError if that leaves no step.
    """
    if not drop_last:
        return -(-samples // effective_batch)
    if 0 < samples < effective_batch:
        said = f"leaves nothing: the data have {samples:,} samples, and a batch has {effective_batch:,}"
        raise UserError("data.drop_last", "true", said)
    return samples // effective_batch


def smallest_micro_batch(
    samples: int, effective_batch: int, batch_size: int, ranks: int, drop_last: bool
) -> int:
    """Returns the fewest samples, but not none, that a rank passes through the network at once in an epoch."""
    counts = {min(samples, effective_batch)} | (set() if drop_last else {samples % effective_batch}) - {0}
    sizes = set()
    for count in counts:
        shares = (
            Share(np.arange(count)[part(count, rank, ranks)], count, ranks=ranks) for rank in range(ranks)
        )
        sizes |= {place.stop - place.start for share in shares for place in share.micro_batches(batch_size)}
    return int(min(sizes - {0}))


def epoch_order(samples: int, seed: int, epoch: int, shuffle: bool, streams: int = 1) -> Indices:
    """Returns the order of one epoch, (samples,): for one seed and epoch the same on every rank and machine.

    Samples that are not shuffled are read as `streams` streams, one for each position in a global batch.
    """
    if not shuffle:
        return stream_order(samples, streams)
    # PCG64 through Generator.permutation is stable across platforms for one NumPy stream version.
    return np.random.default_rng([seed, epoch]).permutation(samples).astype(np.int64, copy=False)


def stream_order(samples: int, streams: int) -> Indices:
    """Returns `streams` contiguous runs of equal length interleaved sample by sample, then the samples left over.

    Position b of every batch of `streams` samples goes through run b in its natural order.
    """
    length = samples // streams
    whole = np.arange(length * streams, dtype=np.int64).reshape(streams, length).T.ravel()
    return np.concatenate([whole, np.arange(length * streams, samples, dtype=np.int64)])


def share(order: Indices, step: int, effective_batch: int, rank: int, size: int) -> Share:
    """Returns rank `rank`'s part of global batch `step` of an epoch."""
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
    """Yields the epoch and rank `rank`'s share of each step of a run. Calls `order_of(epoch)` once per epoch."""
    order = lru_cache(maxsize=1)(order_of)
    for step in steps:
        epoch, place = divmod(step, per_epoch)
        yield epoch, share(order(epoch), place, effective_batch, rank, size)


def part(count: int, rank: int, size: int) -> slice:
    """Returns part `rank` of `size` contiguous parts of `count` items; part sizes differ by one at most."""
    return slice(count * rank // size, count * (rank + 1) // size)
