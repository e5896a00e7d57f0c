"""How much of the exchange hides behind the backward pass, on two nodes whose link tc shapes; beside DDP over gloo.

    sudo .venv/bin/python tests/benchmarks/overlap.py [--rounds 5] [--json FILE]

On the development cluster, one rank a node, one thread a rank, ResNet-18 and VGG-11 at 64 x 64. In one process a mode
and round, in turns: the step without exchange, the exchange with nothing to hide behind, and the step. Overlap is the
part of the exchange that the step does not show: (computing + exchange - step) / exchange. Asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import ranks_vs_peers
import turns
from predicted_vs_measured import RATES, environment, script

NETWORKS = {"resnet18": {"stem": "cifar"}, "vgg11": {"hidden": 1024}}
BATCH = {"resnet18": 8, "vgg11": 16}
SIDE = 64
REPEATS = 3
DDP_BUCKETS = 25 * 2**20


def network(name):
    import torch

    from hpctrain import models
    from hpctrain.models.settings import SETTINGS

    torch.manual_seed(0)
    return models.build(name, SETTINGS[name](input_shape=(3, SIDE, SIDE), num_classes=10, **NETWORKS[name]))


def ours(model, optimizer, dataset):
    import contextlib

    import torch

    from hpctrain.config.settings import CommConfig, TaskConfig
    from hpctrain.data.sampler import Share
    from hpctrain.tasks.classification import Classification
    from hpctrain.training.comm import connect
    from hpctrain.training.exchange import GradientExchange
    from hpctrain.training.step import FLAGS, Trainer
    from hpctrain.training.step_timer import Clock

    comm = connect(CommConfig(transport="mpi"), 2, sys.exit)
    comm.broadcast(model.state_dict())
    task = Classification(TaskConfig())
    exchange = GradientExchange(list(model.parameters()), comm, extras=task.width + FLAGS)
    count = len(dataset)
    trainer = Trainer(
        model,
        task,
        dataset,
        optimizer,
        exchange,
        contextlib.nullcontext,
        count,
        None,
        Clock(torch.device("cpu")),
    )
    own = Share(torch.arange(count).numpy(), 2 * count, ranks=2)

    def computing():
        exchange.begin()
        total, _, _ = task.loss(model, dataset.batch(own.indices, None), None)
        (total / own.global_count).backward()
        trainer.update(ranks_vs_peers.LR)

    def alone():
        exchange.begin()
        exchange.arm()
        exchange.finish()

    def step():
        trainer.step(own, torch.Generator(), None, ranks_vs_peers.LR)

    return computing, alone, step, comm.barrier


def ddp(model, optimizer, dataset):
    import torch
    import torch.distributed as dist
    from torch.nn.functional import cross_entropy
    from torch.nn.parallel import DistributedDataParallel

    os.environ["GLOO_SOCKET_IFNAME"] = "eth0"
    rank = int(os.environ["SLURM_PROCID"])
    dist.init_process_group("gloo", f"file://{os.environ['MEETING']}", rank=rank, world_size=2)
    wrapped = DistributedDataParallel(model)
    floats = sum(p.numel() for p in model.parameters())
    buckets = torch.zeros(floats).split(DDP_BUCKETS // 4)

    def step():
        optimizer.zero_grad()
        images, labels = dataset.batch(None, None)
        cross_entropy(wrapped(images), labels).backward()
        optimizer.step()

    def computing():
        with wrapped.no_sync():
            step()

    def alone():
        for handle in [dist.all_reduce(bucket, async_op=True) for bucket in buckets]:
            handle.wait()

    return computing, alone, step, dist.barrier


MODES = {"hpctrain": ours, "ddp_gloo": ddp}


def worker(mode, name):
    """One rank: the seconds of each kind, REPEATS times in turns after one that warms up; rank 0 prints the medians."""
    import torch

    torch.set_num_threads(1)
    model = network(name).train()
    torch.manual_seed(1 + int(os.environ["SLURM_PROCID"]))
    images, labels = torch.randn(BATCH[name], 3, SIDE, SIDE), torch.randint(0, 10, (BATCH[name],))

    class Noise:
        def __len__(self):
            return len(labels)

        def batch(self, indices, generator=None):
            return images, labels

    optimizer = torch.optim.SGD(model.parameters(), lr=ranks_vs_peers.LR, momentum=0.9, fused=True)
    computing, alone, step, barrier = MODES[mode](model, optimizer, Noise())
    kinds = {"computing": computing, "exchange": alone, "step": step}
    taken = {kind: [] for kind in kinds}
    for _ in range(REPEATS + 1):
        for kind, call in kinds.items():
            barrier()
            start = time.perf_counter()
            call()
            barrier()
            taken[kind].append(time.perf_counter() - start)
    seconds = {kind: statistics.median(each[1:]) for kind, each in taken.items()}
    hidden_s = seconds["computing"] + seconds["exchange"] - seconds["step"]
    if os.environ["SLURM_PROCID"] == "0":
        facts = {
            "samples_per_s": 2 * BATCH[name] / seconds["step"], "overlap": hidden_s / seconds["exchange"],
            "seconds": seconds,
        }  # fmt: skip
        print(json.dumps(facts), flush=True)
    barrier()
    os._exit(0)


def measure(mode, name, settings):
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["srun", "--nodes=2", "--ntasks-per-node=1", f"--partition={settings.partition}", f"--mpi={settings.mpi}",
             "--time=5", "--exclusive", sys.executable, __file__, "--worker", mode, "--network", name],
            capture_output=True, text=True, check=False,
            env=environment() | dict(settings.environment) | {"MEETING": f"{folder}/meeting"},
        )  # fmt: skip
    return turns.answer(done, mode)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    turns.add_arguments(parser)
    parser.add_argument("--rates", nargs="+", default=["1", "10"], choices=RATES, help="Gbit/s")
    parser.add_argument("--network", choices=NETWORKS, help="only this one")
    parser.add_argument("--worker", choices=MODES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.network)
    from hpctrain.data.derive import load

    settings = load(["experiment=lenet_digits", "cluster=devcluster"]).cluster
    script("up")
    found = {}
    for rate in args.rates:
        script("shape", "--rate", RATES[rate])
        for name in [args.network] if args.network else NETWORKS:
            print(f"{name}, batch {BATCH[name]} a rank, 2 nodes at {rate} Gbit/s:", flush=True)
            rounds = turns.take(MODES, args.rounds, lambda mode, n=name: measure(mode, n, settings))
            found[f"{name}-{rate}g"] = rounds
            for mode in MODES:
                speed = turns.spread(facts[mode]["samples_per_s"] for facts in rounds)
                overlap = turns.spread((facts[mode]["overlap"] for facts in rounds), ".0%")
                parts = "  ".join(
                    f"{kind} {1e3 * statistics.median(facts[mode]['seconds'][kind] for facts in rounds):,.0f} ms"
                    for kind in ("computing", "exchange", "step")
                )
                print(f"  {mode:10} samples/s {speed}  hpctrain / it: {turns.ratios(rounds, mode)}")
                print(f"             {parts}  overlap {overlap}", flush=True)
    turns.keep(args.json, batch=BATCH, pixels=SIDE, rounds=found)


if __name__ == "__main__":
    main()
