"""Samples a second on two ranks: hpctrain's step beside its peers, in turns, in one run.

    python tests/benchmarks/ranks_vs_peers.py [--model lenet] [--rounds 5] [--json FILE]

Peers, each with the same network, batch, data and thread count: torch's DistributedDataParallel over gloo;
Horovod's DistributedOptimizer as it ships; and two processes that do not talk at all (the ceiling). One
process per mode and round, started by mpirun; in each the first steps are not counted. Prints the median
and the spread over the rounds and the ratio to each peer, round by round. Asserts nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import time

import turns

BATCH = {"lenet": 64, "resnet18": 16, "lstm": 16}
STEPS = {"lenet": 120, "resnet18": 6, "lstm": 12}
CLASSES = 10
LR = 0.01
SAMPLES = 4096


def network(name):
    import torch

    from hpctrain import models
    from hpctrain.models.settings import SETTINGS

    torch.manual_seed(0)
    settings = {
        "lenet": lambda: SETTINGS["lenet"](),
        "resnet18": lambda: SETTINGS["resnet18"](input_shape=(3, 32, 32), num_classes=CLASSES, stem="cifar"),
        "lstm": lambda: SETTINGS["lstm"](vocabulary_size=100, embedding=256, hidden=256),
    }[name]()
    return models.build(name, settings)


def dataset_of(name):
    """The same in-memory data for every mode, with the methods of hpctrain's own data sets."""
    import numpy as np
    import torch

    from hpctrain.config.settings import DataConfig
    from hpctrain.data.images.resident import ImageDataset

    class Sequences:
        tokens = torch.randint(0, 100, (SAMPLES, 65))

        def batch(self, indices, generator=None):
            chosen = self.tokens[torch.from_numpy(indices)]
            return chosen[:, :-1], chosen[:, 1:]

    if name == "lstm":
        return Sequences()
    shape = (1, 32, 32) if name == "lenet" else (3, 32, 32)
    noise = np.random.default_rng(0)
    config = DataConfig(
        "noise", shape=shape, num_classes=CLASSES, mean=(0.5,) * shape[0], std=(0.3,) * shape[0]
    )
    images = noise.integers(0, 256, (SAMPLES, *shape), dtype=np.uint8)
    return ImageDataset(images, noise.integers(0, CLASSES, SAMPLES), config, augment=False)


def indices_of(name):
    """The samples of each step, in one random order for all modes."""
    import numpy as np

    order, batch = np.random.default_rng(1).permutation(SAMPLES), BATCH[name]
    return lambda i: np.take(order, range(i * batch, (i + 1) * batch), mode="wrap")


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
    model, dataset, indices = network(name), dataset_of(name), indices_of(name)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, fused=True)
    step, barrier, clock = MODES[mode](name, model, optimizer, dataset)
    count = STEPS[name]
    for i in range(max(3, count // 4)):
        step(indices(i))
    barrier()
    if clock:
        clock.take()
    began = time.perf_counter()
    for i in range(count):
        step(indices(i))
    barrier()
    seconds = time.perf_counter() - began
    if os.environ["OMPI_COMM_WORLD_RANK"] == "0":
        facts = {"samples_per_s": 2 * count * BATCH[name] / seconds}
        if clock:
            facts["loader_share"] = clock.take()["data"] / seconds
        print(json.dumps(facts), flush=True)
    os._exit(0)


def ours(name, model, optimizer, dataset):
    """The product's own step, as hpctrain/training/session.py and loop.py make it."""
    import torch

    from hpctrain.config.settings import CommConfig
    from hpctrain.data.sampler import Share
    from hpctrain.training.comm import connect
    from hpctrain.training.exchange import GradientExchange
    from hpctrain.training.session import share_cores
    from hpctrain.training.step import FLAGS, Trainer
    from hpctrain.training.step_timer import Clock

    class Task:
        width = 1

        def loss(self, model, batch, carry):
            total = loss_of(name, model, batch) * BATCH[name]
            return total, total.detach().view(1), carry

    comm = connect(CommConfig(transport="mpi"), 2, sys.exit)
    share_cores(comm)
    comm.broadcast(model.state_dict())
    exchange = GradientExchange(list(model.parameters()), comm, extras=Task.width + FLAGS)
    clock = Clock(torch.device("cpu"))
    trainer = Trainer(
        model, Task(), dataset, optimizer, exchange, contextlib.nullcontext, BATCH[name], None, clock
    )

    def step(indices):
        trainer.step(Share(indices, 2 * BATCH[name], ranks=2), torch.Generator(), None, LR)

    return step, comm.barrier, clock


def ddp(name, model, optimizer, dataset):
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    os.environ |= {"RANK": os.environ["OMPI_COMM_WORLD_RANK"], "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    dist.init_process_group("gloo")
    wrapped = DistributedDataParallel(model)

    def step(indices):
        optimizer.zero_grad()
        loss_of(name, wrapped, dataset.batch(indices)).backward()
        optimizer.step()

    return step, dist.barrier, None


def stock(name, model, optimizer, dataset):
    import horovod.torch as hvd

    hvd.init()
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    wrapped = hvd.DistributedOptimizer(optimizer, model.named_parameters())

    def step(indices):
        wrapped.zero_grad()
        loss_of(name, model, dataset.batch(indices)).backward()
        wrapped.step()

    return step, hvd.barrier, None


def alone(name, model, optimizer, dataset):
    from mpi4py import MPI

    def step(indices):
        optimizer.zero_grad()
        loss_of(name, model, dataset.batch(indices)).backward()
        optimizer.step()

    return step, MPI.COMM_WORLD.Barrier, None


MODES = {"hpctrain": ours, "ddp_gloo": ddp, "horovod_stock": stock, "independent": alone}


def launch(ranks, *command):
    """Run a Python script on `ranks` ranks; gives the JSON line that it prints last."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    flags = ["--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]
    done = subprocess.run(
        ["mpirun", *root, "-np", str(ranks), *flags, sys.executable, *command],
        capture_output=True, text=True, timeout=600,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MASTER_PORT": port},
    )  # fmt: skip
    return turns.answer(done, " ".join(command))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=BATCH, default="lenet")
    turns.add_arguments(parser)
    parser.add_argument("--worker", choices=MODES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.model)
    rounds = turns.take(
        MODES, args.rounds, lambda mode: launch(2, __file__, "--worker", mode, "--model", args.model)
    )
    print(f"{args.model}, batch {BATCH[args.model]} a rank, 2 ranks x 1 thread, samples/s:")
    for mode in MODES:
        speed = turns.spread((facts[mode]["samples_per_s"] for facts in rounds), ",.0f")
        print(f"  {mode:14} {speed:34} hpctrain / it: {turns.ratios(rounds, mode)}")
    shares = turns.spread((facts["hpctrain"]["loader_share"] for facts in rounds), ".2%")
    print(f"  the loader takes {shares} of a step")
    turns.keep(args.json, model=args.model, batch=BATCH[args.model], rounds=rounds)


if __name__ == "__main__":
    main()
