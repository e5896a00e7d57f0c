"""Samples a second on two ranks: hpctrain's step beside its peers, in turns, in one run.

    python tests/benchmarks/ranks_vs_peers.py [--model lenet] [--rounds 5] [--json FILE]

Peers, each with the same network, batch, data and thread count: torch's DistributedDataParallel over gloo;
Horovod's DistributedOptimizer as it ships; and two processes that do not talk at all (the ceiling). One
process per mode and round, started by mpirun; in each the first steps are not counted. Prints the median
and the spread over the rounds and the ratio to each peer, round by round. Asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

MODES = ("hpctrain", "ddp_gloo", "horovod_stock", "independent")
BATCH = {"lenet": 64, "resnet18": 16, "lstm": 16}
STEPS = {"lenet": 120, "resnet18": 6, "lstm": 12}
CLASSES = 10


def network(name):
    import torch

    from hpctrain import models
    from hpctrain.models.settings import SETTINGS

    torch.manual_seed(0)
    settings = {
        "lenet": lambda: SETTINGS["lenet"](),
        "resnet18": lambda: SETTINGS["resnet18"](input_shape=(3, 32, 32), num_classes=CLASSES, stem="cifar"),
        "lstm": lambda: SETTINGS["lstm"](vocabulary_size=100, embedding_size=256, hidden_size=256),
    }[name]()
    return models.build(name, settings)


def batches(name):
    """The same in-memory data for every mode, as hpctrain's own data sets give them."""
    import numpy as np
    import torch

    from hpctrain.config import DataConfig
    from hpctrain.data.images import ImageDataset

    if name == "lstm":
        tokens = torch.randint(0, 100, (64, BATCH[name], 65))
        return lambda i: (tokens[i % 64, :, :-1], tokens[i % 64, :, 1:])
    shape = (1, 32, 32) if name == "lenet" else (3, 32, 32)
    noise = np.random.default_rng(0)
    config = DataConfig(
        "noise", shape=shape, num_classes=CLASSES, mean=(0.5,) * shape[0], std=(0.3,) * shape[0]
    )
    images = noise.integers(0, 256, (4096, *shape), dtype=np.uint8)
    data = ImageDataset(images, noise.integers(0, CLASSES, 4096), config, augment=False)
    orders = noise.permutation(4096)
    return lambda i: data.batch(np.take(orders, range(i * BATCH[name], (i + 1) * BATCH[name]), mode="wrap"))


def loss_of(name, model, batch):
    from torch.nn import functional

    inputs, targets = batch
    if name == "lstm":
        logits, _ = model(inputs)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    return functional.cross_entropy(model(inputs), targets)


def worker(mode, name):
    """One rank: warm up, then time STEPS steps; rank 0 prints samples/s of all ranks."""
    import torch

    torch.set_num_threads(1)
    model, batch = network(name), batches(name)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    step, barrier = {"hpctrain": ours, "ddp_gloo": ddp, "horovod_stock": stock, "independent": alone}[mode](
        name, model, optimizer
    )
    count = STEPS[name]
    for i in range(max(3, count // 4)):
        step(batch(i))
    barrier()
    began = time.perf_counter()
    for i in range(count):
        step(batch(i))
    barrier()
    seconds = time.perf_counter() - began
    if os.environ["OMPI_COMM_WORLD_RANK"] == "0":
        print(json.dumps({"samples_per_s": 2 * count * BATCH[name] / seconds}), flush=True)
    os._exit(0)


def ours(name, model, optimizer):
    from hpctrain.config import CommConfig
    from hpctrain.training.comm import connect
    from hpctrain.training.exchange import GradientExchange

    comm = connect(CommConfig(transport="mpi"), 2)
    comm.broadcast(model.state_dict())
    exchange = GradientExchange(list(model.parameters()), comm, extras=6)

    def step(batch):
        exchange.begin()
        loss = loss_of(name, model, batch) / 2
        exchange.extras[0] = loss.detach()
        exchange.arm()
        loss.backward()
        exchange.finish()
        norm = exchange.norm()  # the check for NaN that every step of ours makes
        optimizer.found_inf = (~torch_isfinite(norm)).float()
        optimizer.step()

    return step, comm.barrier


def torch_isfinite(value):
    import torch

    return torch.isfinite(value)


def ddp(name, model, optimizer):
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    os.environ |= {"RANK": os.environ["OMPI_COMM_WORLD_RANK"], "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    dist.init_process_group("gloo")
    wrapped = DistributedDataParallel(model)

    def step(batch):
        optimizer.zero_grad()
        loss_of(name, wrapped, batch).backward()
        optimizer.step()

    return step, dist.barrier


def stock(name, model, optimizer):
    import horovod.torch as hvd

    hvd.init()
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    wrapped = hvd.DistributedOptimizer(optimizer, model.named_parameters())

    def step(batch):
        wrapped.zero_grad()
        loss_of(name, model, batch).backward()
        wrapped.step()

    return step, lambda: hvd.barrier()


def alone(name, model, optimizer):
    from mpi4py import MPI

    def step(batch):
        optimizer.zero_grad()
        loss_of(name, model, batch).backward()
        optimizer.step()

    return step, MPI.COMM_WORLD.Barrier


def measure(mode, name):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    flags = ["--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]
    done = subprocess.run(
        ["mpirun", *root, "-np", "2", *flags, sys.executable, __file__, "--worker", mode, "--model", name],
        capture_output=True, text=True, timeout=600,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MASTER_PORT": port},
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(f"{mode}: {done.stderr}")
    return json.loads(lines[-1])["samples_per_s"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=BATCH, default="lenet")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="write the raw figures here")
    parser.add_argument("--worker", choices=MODES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.model)
    figures = {mode: [] for mode in MODES}
    for number in range(args.rounds):
        for mode in MODES:
            figures[mode].append(measure(mode, args.model))
        print(
            f"round {number + 1}: " + "  ".join(f"{m} {v[-1]:,.0f}" for m, v in figures.items()), flush=True
        )
    print(f"{args.model}, batch {BATCH[args.model]} a rank, 2 ranks x 1 thread, samples/s:")
    for mode, values in figures.items():
        ratios = [a / b for a, b in zip(figures["hpctrain"], values, strict=True)]
        print(
            f"  {mode:14} median {statistics.median(values):10,.0f}  ({min(values):,.0f} to {max(values):,.0f})"
            f"  hpctrain / it: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    if args.json:
        facts = {"model": args.model, "batch": BATCH[args.model], "samples_per_s": figures}
        Path(args.json).write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
