"""One pass over a data set without training: the model's scores, whatever the number of ranks.

Takes a forward pass and an `Evaluator`; returns named scores. Collective. No files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hpctrain.data.sampler import Share, share, steps_per_epoch, stream_order
from hpctrain.tasks import Batch, Carry, Task
from hpctrain.training.comm import Comm
from hpctrain.training.step import Carried

Forward = Callable[[Batch, Carry], tuple[Tensor, Tensor, Carry]]


class Evaluator(Protocol):
    """What is scored: filled batch by batch on each rank, gathered from all of them, then scored."""

    def update(self, sums: Tensor) -> None:
        """Take the sums of one batch, a vector (task.width,)."""

    def gather(self, comm: Comm) -> None:
        """Add what the other ranks have. Collective."""

    def scores(self) -> dict[str, float]:
        """Returns the named scores of all that was taken."""


class SummedScores:
    """Scores that are functions of sums over samples, as every task has them."""

    def __init__(self, task: Task, device: torch.device) -> None:
        self._task = task
        # Counts beyond 2^24 are not exact in float32.
        self._own = torch.zeros(task.width, dtype=torch.float64, device=device)
        self.sums = [0.0] * task.width

    def update(self, sums: Tensor) -> None:
        """Add the sums (task.width,) of one batch."""
        self._own += sums

    def gather(self, comm: Comm) -> None:
        """Set `sums` to the sums over all ranks. Collective."""
        per_rank = comm.gather_objects(self._own.tolist())
        self.sums = [sum(values) for values in zip(*per_rank, strict=True)]

    def scores(self) -> dict[str, float]:
        """Returns the task's scores of the gathered sums."""
        return self._task.summarise(self.sums)


def evaluation_shares(samples: int, batch: int, comm: Comm) -> Iterator[Share]:
    """Yields this rank's share of each global batch of an evaluation."""
    order = stream_order(samples, batch)
    for step in range(steps_per_epoch(samples, batch)):
        yield share(order, step, batch, comm.rank, comm.size)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    forward: Forward,
    evaluator: Evaluator,
    dataset: Any,
    comm: Comm,
    batch: int,
    batch_size: int,
    tick: Callable[[], None],
) -> dict[str, float]:
    """Returns the scores of the whole data set: each sample once, in streams as wide as the global `batch`.

    The result does not depend on the number of ranks, except for the order of sums. `forward` is the model's forward
    pass, at most `batch_size` samples at a time; `tick` is called after each.
    """
    model.eval()
    carry: Carry = None
    for own in evaluation_shares(len(dataset), batch, comm):
        carried = Carried(None if own.fresh else carry)
        for place in own.micro_batches(batch_size):
            _, sums, state = forward(dataset.batch(own.indices[place]), carried.of(place))
            carried.keep(state)
            evaluator.update(sums)
            tick()
        carry = carried.whole()
    model.train()
    evaluator.gather(comm)
    return evaluator.scores()
