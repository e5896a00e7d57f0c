"""One pass over a data set without training: the model's scores, whatever the number of ranks.

Takes a forward pass and an `Evaluator`; returns named scores, which rank 0 computes. Collective. No files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch
from torch import Tensor, nn

from hpctrain.data.sampler import Share, share, steps_per_epoch, stream_order
from hpctrain.tasks import Batch, Carry
from hpctrain.tasks.evaluator import Evaluator
from hpctrain.training.comm import Comm
from hpctrain.training.step import Carried

Forward = Callable[[Batch, Carry], tuple[Tensor, Tensor, Carry]]

ALIVE_S = 0.5  # while rank 0 computes scores, it tells the others so after each interval of this length


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
    pass, at most `batch_size` samples at a time; `tick` is called after each, and repeatedly during the scoring.
    """
    output: Any = None

    def see(_module: nn.Module, _inputs: Any, returned: Any) -> None:
        nonlocal output
        output = returned

    model.eval()
    carry: Carry = None
    with model.register_forward_hook(see):
        for own in evaluation_shares(len(dataset), batch, comm):
            carried = Carried(None if own.fresh else carry)
            for place in own.micro_batches(batch_size):
                indices = own.indices[place]
                rows = dataset.batch(indices)
                _, sums, state = forward(rows, carried.of(place))
                carried.keep(state)
                evaluator.add(output, rows, sums, indices)
                output = None  # frees its memory before the next one is made
                tick()
            carry = carried.whole()
    model.train()
    return _score(evaluator, comm, tick)


def _score(evaluator: Evaluator, comm: Comm, tick: Callable[[], None]) -> dict[str, float]:
    """Returns the scores of the parts of all ranks, which rank 0 computes. Collective.

    However long that takes, no rank waits in one collective for longer than ALIVE_S, as long as rank 0 lives.
    """
    parts = comm.gather_objects(evaluator.part())
    if comm.rank > 0:
        while (scores := comm.broadcast_object(None)) is None:
            pass
        return dict(scores)
    aside = ThreadPoolExecutor(1, "scores")
    scoring = aside.submit(evaluator.scores, parts)
    aside.shutdown(wait=False)  # an error that ends the run meanwhile need not wait for the scores
    while not wait([scoring], ALIVE_S).done:
        comm.broadcast_object(None)
        tick()
    return dict(comm.broadcast_object(scoring.result()))
