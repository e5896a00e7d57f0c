"""One process: hpctrain's step beside its peers, in samples/s and peak memory, in turns, in one run.

    python tests/benchmarks/step_vs_peers.py [--model resnet50] [--rounds 5] [--json FILE]

Peers, each with the same network, batch and data: the loop of Horovod's own PyTorch synthetic benchmark (one batch of
noise again and again, fp32, contiguous, SGD wrapped in DistributedOptimizer); a loop as Lightning Fabric makes it
(bf16 autocast, else torch's defaults); and plain PyTorch with hpctrain's own format, layout and optimiser, which is
what hpctrain's memory is compared with. One process a mode and round. Asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import turns

BATCH = {"resnet50": 32, "resnet18": 16}  # 32: as Horovod's benchmark ships
STEPS = {"resnet50": 2, "resnet18": 10}
LR = 0.01


def network(name):
    import torch

    from hpctrain import models
    from hpctrain.models.settings import SETTINGS

    torch.manual_seed(0)
    small = {"input_shape": (3, 32, 32), "num_classes": 10, "stem": "cifar"} if name == "resnet18" else {}
    return models.build(name, SETTINGS[name](**small)), small.get("input_shape", (3, 224, 224))


def ours(model, images, labels):
    """The product's step, with precision=auto as it settles here."""
    import torch

    from hpctrain.config.settings import PrecisionConfig, SgdConfig, TaskConfig
    from hpctrain.data.sampler import Share
    from hpctrain.tasks.classification import Classification
    from hpctrain.training import precision
    from hpctrain.training.comm import Comm
    from hpctrain.training.exchange import GradientExchange
    from hpctrain.training.optimizers import make_optimizer
    from hpctrain.training.step import FLAGS, Trainer
    from hpctrain.training.step_timer import Clock

    class Noise:
        def batch(self, indices, generator=None):
            return images, labels

    cpu, comm = torch.device("cpu"), Comm()
    settings = precision.settle(PrecisionConfig("auto", channels_last=True), cpu)
    model = model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(SgdConfig(lr=LR, momentum=0.9), model.named_parameters())
    task = Classification(TaskConfig())
    exchange = GradientExchange(list(model.parameters()), comm, extras=task.width + FLAGS)
    autocast = precision.autocast(settings.name, cpu)
    count = len(labels)
    trainer = Trainer(model, task, Noise(), optimizer, exchange, autocast, count, None, Clock(cpu))
    share = Share(torch.arange(count).numpy(), count)
    return lambda: trainer.step(share, torch.Generator(), None, LR)


def bf16_loop(model, images, labels, **options):
    """The loop that everybody writes; `options` are the optimiser's."""
    import torch
    from torch.nn.functional import cross_entropy

    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, **options)

    def step():
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return step


def plain(model, images, labels):
    import torch

    model = model.to(memory_format=torch.channels_last)
    return bf16_loop(model, images.contiguous(memory_format=torch.channels_last), labels, fused=True)


def horovod(model, images, labels):
    import horovod.torch as hvd
    import torch
    from torch.nn.functional import cross_entropy

    hvd.init()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)

    def step():
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


MODES = {"hpctrain": ours, "horovod_synthetic": horovod, "fabric_bf16": bf16_loop, "plain_bf16": plain}


def worker(mode, name):
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model, shape = network(name)
    torch.manual_seed(1)
    images, labels = torch.randn(BATCH[name], *shape), torch.randint(0, 10, (BATCH[name],))
    step = MODES[mode](model.train(), images, labels)
    step()
    began = time.perf_counter()
    for _ in range(STEPS[name]):
        step()
    seconds = time.perf_counter() - began
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"samples_per_s": STEPS[name] * BATCH[name] / seconds, "peak_mb": peak_mb}), flush=True)
    os._exit(0)


def measure(mode, name):
    command = [sys.executable, __file__, "--worker", mode, "--model", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    return turns.answer(done, mode)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=BATCH, default="resnet50")
    turns.add_arguments(parser)
    parser.add_argument("--worker", choices=MODES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.model)
    rounds = turns.take(MODES, args.rounds, lambda mode: measure(mode, args.model))
    print(f"{args.model}, batch {BATCH[args.model]}, one process:")
    for mode in MODES:
        speed = turns.spread(facts[mode]["samples_per_s"] for facts in rounds)
        print(f"  {mode:18} samples/s {speed:24} hpctrain / it: {turns.ratios(rounds, mode)}", end="")
        print(f"  memory hpctrain / it: {turns.ratios(rounds, mode, 'peak_mb')}")
    turns.keep(args.json, model=args.model, batch=BATCH[args.model], rounds=rounds)


if __name__ == "__main__":
    main()
