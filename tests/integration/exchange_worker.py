"""One of two ranks: gradients of every kind of exchange beside plain autograd's. Prints JSON on rank 0.

All kinds share one job, as starting it costs more than they do.
"""

import json
import os
import sys

import torch
from torch import nn

from hpctrain.config.settings import CommConfig, SgdConfig
from hpctrain.training.comm import connect
from hpctrain.training.exchange import make_exchange
from hpctrain.training.optimizers import make_optimizer
from hpctrain.training.session import share_cores

SAMPLES, STEPS = 8, 3
KINDS = {
    "buckets": CommConfig(),
    "small_buckets": CommConfig(bucket_mb=0.001),
    "fp16": CommConfig(compression="fp16"),
    "adasum": CommConfig(reduction="adasum"),
    "distributed_optimizer": CommConfig(exchange="distributed_optimizer"),
}


def network(layout):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 5)
    ).to(memory_format=layout)  # fmt: skip


def images_of(rank):
    return torch.randn(SAMPLES, 3, 8, 8, generator=torch.Generator().manual_seed(rank))


def gradients(model, images):
    """Plain autograd's, of the mean over two ranks' samples."""
    model.zero_grad()
    (model(images).square().sum() / (2 * SAMPLES)).backward()
    return [p.grad.clone() for p in model.parameters()]


def adasum(first, second):
    """Of two gradients, Maleki et al. 2020, section 3; times two."""
    dot = (first * second).sum()
    return 2 * (
        first * (1 - dot / (2 * first.square().sum())) + second * (1 - dot / (2 * second.square().sum()))
    )


def expected(kind, layout):
    one, two = (gradients(network(layout), images_of(rank)) for rank in (0, 1))
    return [adasum(a, b) if kind == "adasum" else a + b for a, b in zip(one, two, strict=True)]


def measured(kind, layout, comm, micro):
    """The gradients after STEPS steps at a learning rate of zero, and how many sums per step took."""
    model = network(layout)
    optimizer = make_optimizer(SgdConfig(lr=0.0, momentum=0.9), model.named_parameters())
    exchange, optimizer = make_exchange(KINDS[kind], model, optimizer, comm, 2)
    for _ in range(STEPS):
        exchange.begin()
        exchange.extras[0] = comm.rank + 1
        parts = images_of(comm.rank).chunk(micro)
        for part in parts:
            if part is parts[-1]:
                exchange.arm()
            (model(part).square().sum() / (2 * SAMPLES)).backward()
        exchange.finish()
        optimizer.step()
    assert exchange.extras.tolist() == [3, 0]
    return [p.grad.clone() for p in model.parameters()]


def main():
    comm = connect(CommConfig(timeout_s=60), 2, sys.exit)
    torch.set_num_threads(share_cores(comm))
    found = {"cores": comm.gather_objects(sorted(os.sched_getaffinity(0)))}
    for kind in KINDS:
        for layout in (torch.contiguous_format, torch.channels_last):
            if (kind, layout) == ("distributed_optimizer", torch.channels_last):
                continue
            for micro in (1, 2):
                pairs = zip(measured(kind, layout, comm, micro), expected(kind, layout), strict=True)
                errors = [float((got - right).norm() / right.norm()) for got, right in pairs]
                found.setdefault(kind, []).append(max(errors))
    if comm.rank == 0:
        print(json.dumps(found), flush=True)
    comm.shutdown()


main()
