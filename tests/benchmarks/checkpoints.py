"""What a checkpoint costs: hpctrain's beside torch.save, torch.distributed.checkpoint and safetensors alone.

    python tests/benchmarks/checkpoints.py [--mb 100 1000] [--rounds 5] [--folder DIR] [--json FILE]

In each round, in turns, on the same tensors (weights and two moments of an Adam run) and the same disk:
the stall, which is how long a training step waits for a save, beside its floor, the bytes over the bandwidth
of one flat copy in memory; the time until a save is done, verified or loaded; and what a save costs the
steps that run beside it, which gives the overhead at the interval that checkpoint.every=auto chooses. The
first save of each kind allocates its buffers and is shown apart. Prints medians and spreads, asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch.nn import functional

from hpctrain.checkpoints import store
from hpctrain.checkpoints.policy import young_daly_s
from hpctrain.checkpoints.saver import Checkpointer, Snapshot, read
from hpctrain.config.settings import CheckpointConfig
from hpctrain.storage import lock

LAYERS = 24
NODE_MTBF_S = 50_000 * 3600.0  # the default of cluster.mtbf_node_hours
NODES = (1, 100, 1000)


def make_state(megabytes):
    """Weights and two moments, in layers of equal size."""
    count = megabytes * 10**6 // 4 // (3 * LAYERS)
    kinds = ("model", "optimizer/exp_avg", "optimizer/exp_avg_sq")
    return {f"{kind}/{layer}": torch.randn(count) for layer in range(LAYERS) for kind in kinds}


def timed(call):
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


class Ours:
    def __init__(self, folder, state):
        folder.mkdir(mode=0o700)
        term = lock.acquire(folder / "checkpoints", 1)
        settings = CheckpointConfig(keep_last=1, keep_best=False)
        self.folder, self.step = folder / "checkpoints", 0
        self.saver = Checkpointer(self.folder, settings, 1, NODE_MTBF_S, term)
        self.saver.restore()
        self.state = state
        self.saver.reserve(self.snapshot())

    def snapshot(self):
        meta = {"step": self.step, "epoch": 0.0, "samples": self.step, "world_size": 1}
        return Snapshot(self.state, meta)

    def save(self):
        """Gives the stall; the write goes on."""
        self.step += 1
        return timed(lambda: self.saver.save(self.snapshot()))[0]

    def finish(self):
        self.saver.finish()


class Dcp:
    def __init__(self, folder, state):
        folder.mkdir()
        self.folder, self.state, self.number, self.future = folder, state, 0, None

    def save(self):
        self.number += 1
        place = self.folder / str(self.number)
        stall_s, self.future = timed(lambda: dcp.async_save(self.state, checkpoint_id=place))
        return stall_s

    def finish(self):
        self.future.result()
        shutil.rmtree(self.folder / str(self.number))


class TorchSave:
    def __init__(self, folder, state):
        folder.mkdir()
        self.path, self.state = folder / "state.pt", state

    def save(self):
        return timed(lambda: torch.save(self.state, self.path))[0]

    def finish(self):
        self.path.unlink()


def floor_s(state, target):
    """One flat copy of as many bytes into memory that is there already: the best of three."""
    flat = torch.empty(target.numel()).fill_(1.0)
    return min(timed(lambda: target.copy_(flat))[0] for _ in range(3))


def stalls(folder, state, rounds):
    """Seconds: of the first save of each kind, and of each round after it; with the floor of each round."""
    target = torch.zeros(sum(tensor.numel() for tensor in state.values()))
    kinds = {
        "hpctrain": Ours(folder / "ours", state), "dcp.async_save": Dcp(folder / "dcp", state),
        "torch.save": TorchSave(folder / "torch", state),
    }  # fmt: skip
    first, found = {}, []
    for name, kind in kinds.items():
        first[name] = kind.save()
        kind.finish()
    for _ in range(rounds):
        row = {"floor": floor_s(state, target)}
        for name, kind in kinds.items():
            os.sync()
            row[name] = kind.save()
            kind.finish()
        found.append(row)
    return first, found, kinds["hpctrain"]


def whole(folder, state, rounds, ours):
    """Seconds from the call to the end: saving (ours: hashed, synced and read back), verifying, loading."""
    path, found = folder / "alone.safetensors", []

    def save_and_sync():
        save_file(state, path)
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)

    def save_ours():
        ours.save()
        ours.finish()

    for _ in range(rounds):
        row = {"safetensors save and fsync": timed(save_and_sync)[0], "hpctrain save": timed(save_ours)[0]}
        entry = store.entries(ours.folder)[-1]
        row["hpctrain verify"] = timed(lambda e=entry: store.verify(ours.folder, e))[0]
        row["safetensors load"] = timed(lambda: sum(t.sum() for t in load_file(path).values()))[0]
        row["hpctrain load"] = timed(
            lambda e=entry: sum(t.sum() for n, t in read(ours.folder, e).tensors.items())
        )[0]
        found.append(row)
    return found


def overhead(ours, rounds):
    """Seconds that a save takes from the training steps beside it; both are timed to the end of the write."""
    model = torch.nn.Sequential(*[torch.nn.Linear(1024, 1024) for _ in range(4)])
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    batch = torch.randn(256, 1024)

    def step():
        optimizer.zero_grad()
        functional.mse_loss(model(batch), batch).backward()
        optimizer.step()

    step()
    found = []
    for _ in range(rounds):
        steps, began = 0, time.perf_counter()
        ours.save()
        while ours.saver._thread.is_alive():
            step()
            steps += 1
        beside_s = time.perf_counter() - began
        ours.finish()
        alone_s = timed(lambda n=steps: [step() for _ in range(n)])[0]
        found.append(beside_s - alone_s)
    return found


def spread(values):
    return f"median {statistics.median(values):8.4f} s ({min(values):.4f} to {max(values):.4f})"


def report(megabytes, facts):
    print(f"{megabytes} MB, {torch.get_num_threads()} threads; the stall of a step:")
    floors = [row["floor"] for row in facts["stalls"]]
    print(f"  {'floor: one flat copy':28} {spread(floors)}")
    for name in ("hpctrain", "dcp.async_save", "torch.save"):
        values = [row[name] for row in facts["stalls"]]
        ratios = [row[name] / row["floor"] for row in facts["stalls"]]
        print(
            f"  {name:28} {spread(values)}  times the floor {statistics.median(ratios):6.2f}"
            f" ({min(ratios):.2f} to {max(ratios):.2f})  the first {facts['first'][name]:.3f} s"
        )
    print("until it is done:")
    for name in facts["whole"][0]:
        print(f"  {name:28} {spread([row[name] for row in facts['whole']])}")
    cost_s = statistics.median(facts["cost"])
    print(f"what a save takes from the steps beside it: {spread(facts['cost'])}")
    for nodes in NODES:
        interval_s = young_daly_s(facts["auto_cost_s"], NODE_MTBF_S / nodes)
        print(
            f"  {nodes:5} nodes: every={'auto'} saves every {interval_s:8,.0f} s: {cost_s / interval_s:.3%} overhead"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="write the raw figures here")
    args = parser.parse_args()
    everything = {}
    for megabytes in args.mb:
        with tempfile.TemporaryDirectory(dir=args.folder, prefix="checkpoints.") as name:
            folder = Path(name)
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
            state = make_state(megabytes)
            first, found, ours = stalls(folder, state, args.rounds)
            facts = {"first": first, "stalls": found, "whole": whole(folder, state, args.rounds, ours)}
            facts["cost"] = overhead(ours, args.rounds)
            facts["auto_cost_s"] = ours.saver.stall_s + ours.saver.write_s
            dist.destroy_process_group()
        everything[megabytes] = facts
        report(megabytes, facts)
    if args.json:
        args.json.write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
