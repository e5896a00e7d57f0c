"""One of SIZE ranks: `norms_worker.py SIZE RANKS`, with comm.batch_norm_ranks=RANKS; rank 0 prints JSON.

Gradients, running statistics and outputs beside plain autograd's on each group's samples as one batch.
"""

import json
import sys

import torch
from torch import nn

from hpctrain.config.settings import CommConfig, SgdConfig
from hpctrain.training.comm import connect
from hpctrain.training.exchange import make_exchange
from hpctrain.training.group_batch_norm import share_norms
from hpctrain.training.optimizers import make_optimizer

SIZE, WIDTH = int(sys.argv[1]), sys.argv[2] if sys.argv[2] == "all" else int(sys.argv[2])
GROUP = SIZE if WIDTH == "all" else WIDTH
# Ranks with unequal parts, as at the end of an epoch.
COUNTS = [3 + rank % 2 for rank in range(SIZE)]
STEPS = 3


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Sequential(nn.Conv2d(8, 4, 3, bias=False), nn.BatchNorm2d(4)),
        nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4 * 4, 5),
    ).to(memory_format=torch.channels_last)  # fmt: skip


def images_of(rank, step):
    generator = torch.Generator().manual_seed(100 * step + rank)
    # Each rank's samples have a mean of their own: what one rank knows alone is far from what the group knows.
    return rank + (1 + rank) * torch.randn(COUNTS[rank], 3, 8, 8, generator=generator)


def backward(model, images):
    (model(images).square().sum() / sum(COUNTS)).backward()


def expected(rank):
    """Gradients of all groups, summed; and the statistics of this rank's."""
    total, buffers = None, None
    for first in range(0, SIZE, GROUP):
        model, members = network(), range(first, first + GROUP)
        for step in range(STEPS):
            model.zero_grad()
            backward(model, torch.cat([images_of(member, step) for member in members]))
        found = [p.grad for p in model.parameters()]
        total = found if total is None else [a + b for a, b in zip(total, found, strict=True)]
        if rank in members:
            buffers = [b.double() for b in model.buffers()]
    return total, buffers


def main():
    torch.set_num_threads(1)
    comm = connect(CommConfig(timeout_s=60, batch_norm_ranks=WIDTH), SIZE, sys.exit)
    model = network()
    optimizer = make_optimizer(SgdConfig(lr=0.0), model.named_parameters())
    exchange, optimizer = make_exchange(CommConfig(bucket_mb=0.001), model, optimizer, comm, 0)
    group, layers = share_norms(model, comm)
    group.together = True
    for step in range(STEPS):
        exchange.begin()
        exchange.arm()
        backward(model, images_of(comm.rank, step))
        exchange.finish()
    gradients, buffers = expected(comm.rank)
    pairs = [
        *zip((p.grad for p in model.parameters()), gradients, strict=True),
        *zip((b.double() for b in model.buffers()), buffers, strict=True),
    ]
    scale = max(float(right.norm()) for right in gradients)
    errors = [float((got - right).norm() / max(float(right.norm()), 1e-3 * scale)) for got, right in pairs]
    alone = network()
    backward(alone, images_of(comm.rank, 0))
    differs = float((alone[1].running_mean - model[1].running_mean).norm())
    found = comm.gather_objects((max(errors), differs))
    if comm.rank == 0:
        print(json.dumps({"layers": layers, "errors": [e for e, _ in found], "alone": [d for _, d in found]}))
    comm.shutdown()


main()
