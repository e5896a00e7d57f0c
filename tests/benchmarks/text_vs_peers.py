"""Language models beside their peers: tokens a second, bits per character, and how fast text is tokenised.

    python tests/benchmarks/text_vs_peers.py [speed] [quality] [plain_quality] [tokenise] [--json FILE]

speed: the network and settings of experiment=char_lstm_python, a thread a rank; hpctrain's own step beside a
plain PyTorch loop (1 rank) and DistributedDataParallel over gloo (2 ranks), in turns; each a process of its
own. quality: `hpctrain train experiment=char_lstm_python` on 2 ranks; plain_quality: the plain loop with the same
steps and global batch. tokenise: 100 MB of text into token files. Text: the Python standard library. Default: speed
and tokenise. Prints medians, spreads and ratios; asserts nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ranks_vs_peers import launch

STEPS, WARM_UP = 24, 6
PEERS = {1: ("hpctrain", "plain"), 2: ("hpctrain", "ddp_gloo")}


def recipe(*overrides):
    from hpctrain.data import derive

    return derive.load(["experiment=char_lstm_python", *overrides])


class Plain:
    """The loop that everybody writes: the text as columns, a window of each at a time."""

    def __init__(self, config, streams, rank=0, size=1):
        import torch
        from torch import nn

        from hpctrain.data.text import tokens

        class Network(nn.Module):
            def __init__(self, model):
                super().__init__()
                self.embedding = nn.Embedding(model.vocabulary_size, model.embedding)
                self.rnn = nn.LSTM(model.embedding, model.hidden, model.layers, batch_first=True)
                self.decoder = nn.Linear(model.hidden, model.vocabulary_size)
                for parameter in self.parameters():
                    nn.init.uniform_(parameter, -(model.hidden**-0.5), model.hidden**-0.5)

            def forward(self, x, state):
                output, state = self.rnn(self.embedding(x), state)
                return self.decoder(output), state

        torch.manual_seed(config.seed)
        self.length, self.clip = config.data.sequence_length, config.train.clip_norm
        found = tokens.load(config.data)
        own = slice(streams * rank // size, streams * (rank + 1) // size)
        self.train = self.columns(found.train, streams)[own]
        self.validation = self.columns(found.validation, streams)
        self.model = self.wrapped = Network(config.model.settings)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.optimizer.lr)
        self.state = None

    @staticmethod
    def columns(numbers, streams):
        import torch

        count = (len(numbers) - 1) // streams
        whole = torch.from_numpy(numbers.astype("int64"))[: count * streams + 1]
        return torch.stack([whole[i * count : (i + 1) * count + 1] for i in range(streams)])

    def loss(self, columns, number, model):
        from torch.nn import functional

        place = number * self.length
        part = columns[:, place : place + self.length + 1]
        logits, state = model(part[:, :-1], self.state)
        self.state = tuple(s.detach() for s in state)
        return functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten())

    def step(self, number, lr):
        import torch

        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.zero_grad()
        self.loss(self.train, number, self.wrapped).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()

    def bits_per_character(self):
        import torch

        self.model.eval()
        self.state = None
        windows = (self.validation.shape[1] - 1) // self.length
        with torch.no_grad():
            losses = [float(self.loss(self.validation, i, self.model)) for i in range(windows)]
        return statistics.fmean(losses) / math.log(2)


class Ours:
    """The product's own step, as hpctrain/training/loop.py calls it."""

    def __init__(self, config, rank, size):
        import torch

        from hpctrain import data, models
        from hpctrain.config.settings import CommConfig
        from hpctrain.data import sampler
        from hpctrain.tasks import make_task
        from hpctrain.training.comm import connect
        from hpctrain.training.exchange import GradientExchange
        from hpctrain.training.optimizers import make_optimizer
        from hpctrain.training.step import FLAGS, Trainer
        from hpctrain.training.step_timer import Clock

        self.comm = comm = connect(CommConfig(transport="mpi"), size, sys.exit)
        torch.manual_seed(config.seed)
        model = models.build(config.model.name, config.model.settings)
        comm.broadcast(model.state_dict())
        dataset = data.load(config.data).train
        task = make_task(config.task, dataset)
        exchange = GradientExchange(list(model.parameters()), comm, extras=task.width + FLAGS)
        optimizer = make_optimizer(config.optimizer, model.named_parameters())
        batch, clip = config.train.batch_size, config.train.clip_norm
        self.trainer = Trainer(
            model, task, dataset, optimizer, exchange, contextlib.nullcontext, batch, clip,
            Clock(torch.device("cpu")),
        )  # fmt: skip
        order = sampler.epoch_order(len(dataset), 0, 0, dataset.shuffle, batch * size)
        self.share = lambda number: sampler.share(order, number, batch * size, rank, size)
        self.generator, self.carry = torch.Generator(), None

    def step(self, number, lr):
        _, self.carry = self.trainer.step(self.share(number), self.generator, self.carry, lr)


def worker(mode):
    """One rank: warm up, then time STEPS steps; rank 0 prints tokens/s of all ranks."""
    import torch
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    rank, size = world.rank, world.size
    torch.set_num_threads(1)
    config = recipe()
    if mode == "hpctrain":
        runner = Ours(config, rank, size)
    else:
        runner = Plain(config, config.train.batch_size * size, rank, size)
    if mode == "ddp_gloo":
        import torch.distributed as dist
        from torch.nn.parallel import DistributedDataParallel

        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
        dist.init_process_group("gloo")
        runner.wrapped = DistributedDataParallel(runner.model)
    for number in range(WARM_UP):
        runner.step(number, 1e-3)
    world.Barrier()
    began = time.perf_counter()
    for number in range(WARM_UP, WARM_UP + STEPS):
        runner.step(number, 1e-3)
    world.Barrier()
    tokens = STEPS * size * config.train.batch_size * config.data.sequence_length
    if rank == 0:
        print(json.dumps({"tokens_per_s": tokens / (time.perf_counter() - began)}), flush=True)
    os._exit(0)


def measure(mode, ranks):
    return launch(ranks, __file__, "--worker", mode)["tokens_per_s"]


def speed(rounds):
    """Tokens/s of all ranks by number of ranks and mode, a list a mode."""
    found = {}
    for ranks, modes in PEERS.items():
        runs = [{mode: measure(mode, ranks) for mode in modes} for _ in range(rounds)]
        for mode in modes:
            values = [run[mode] for run in runs]
            ratios = [run["hpctrain"] / run[mode] for run in runs]
            print(
                f"{ranks} rank(s), {mode:9} median {statistics.median(values):8,.0f} tokens/s "
                f"({min(values):,.0f} to {max(values):,.0f})  hpctrain / it: "
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                flush=True,
            )
            found[f"{mode}_{ranks}"] = values
    return found


def quality(steps, keep):
    """Bits per character on the validation text of hpctrain on 2 ranks. `keep`: where the run stays."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                sys.executable, "-m", "hpctrain.cli", "train", "experiment=char_lstm_python",
                "resources.ranks=2", f"train.steps={steps}", f"run.root={keep or folder}",
            ],
            check=True, capture_output=True,
        )  # fmt: skip
        state = json.loads(next(Path(keep or folder).glob("*/*/state.json")).read_text())
    bits, train_s = state["summary"]["validation"]["bits_per_character"], state["summary"]["train_s"]
    print(
        f"hpctrain, 2 ranks: {bits:.3f} bits per character after {steps} steps, {train_s:.0f} s of training"
    )
    return {"bits_per_character": bits, "steps": steps, "train_s": train_s}


def plain_quality(steps):
    """The same network by the plain loop: same steps, global batch and schedule; another initial draw."""
    import torch

    from hpctrain.training.schedule import Schedule

    torch.set_num_threads(1)
    config = recipe("resources.ranks=2", f"train.steps={steps}")
    batch = config.effective_batch
    plain = Plain(config, batch)
    per_epoch = plain.train.shape[1] // plain.length
    schedule = Schedule(config.schedule, config.optimizer.lr, batch, per_epoch, steps)
    began = time.perf_counter()
    for number in range(steps):
        plain.step(number, schedule.lr(number))
    seconds, bits = time.perf_counter() - began, plain.bits_per_character()
    print(f"plain loop, 1 thread: {bits:.3f} bits per character after {steps} steps, {seconds:.0f} s")
    return {"bits_per_character": bits, "steps": steps, "train_s": seconds}


TOKENISE = """
import json, re, sys, time
from pathlib import Path
from hpctrain.config.settings import DataConfig
from hpctrain.data.text import tokens
path, kind, size = sys.argv[1:]
began = time.perf_counter()
found = tokens.load(DataConfig("text", path, tokens=kind, vocabulary_size=int(size), sequence_length=100))
seconds = time.perf_counter() - began
peak_kib = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(json.dumps({"s": seconds, "peak_mb": peak_kib * 1024 / 1e6, "tokens": len(found.train)}))
"""


def tokenise(megabytes=100):
    """Seconds and peak memory of making token files from the standard library's source, repeated."""
    from hpctrain.data.text import source as text_source

    source = text_source.find_source(recipe().data)
    text = "".join(source.train()).encode()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        with path.open("wb") as file:
            while file.tell() < megabytes * 1e6:
                file.write(text)
        size_mb = path.stat().st_size / 1e6
        for kind, size in (("character", 100), ("word", 10_000), ("bpe", 4096)):
            done = subprocess.run(
                [sys.executable, "-c", TOKENISE, str(path), kind, str(size)],
                capture_output=True, text=True, check=True, env=os.environ | {"HPCTRAIN_CACHE": folder},
            )  # fmt: skip
            facts = json.loads(re.findall(r"\{.*\}", done.stdout)[-1])
            print(
                f"{kind:9} {size_mb:.0f} MB in {facts['s']:.1f} s: {size_mb / facts['s']:.1f} MB/s, "
                f"peak memory {facts['peak_mb']:.0f} MB, {facts['tokens']:,} tokens", flush=True,
            )  # fmt: skip
            found[kind] = facts | {"mb": size_mb}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "what", nargs="*", default=["speed", "tokenise"], help="speed, quality, plain_quality, tokenise"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--keep", help="quality: keep the run in this folder")
    parser.add_argument("--json", help="write the raw figures here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker)
    parts = {
        "speed": lambda: speed(args.rounds), "tokenise": tokenise,
        "quality": lambda: quality(args.steps, args.keep), "plain_quality": lambda: plain_quality(args.steps),
    }  # fmt: skip
    if unknown := set(args.what) - parts.keys():
        parser.error(f"{', '.join(unknown)}: must be one of {', '.join(parts)}")
    found = {name: parts[name]() for name in args.what}
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
