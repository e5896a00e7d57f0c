"""Measures the parts of a step at the end of a run: `train.profile=N` steps of each kind.

Takes the trainer of the run; returns profile.json (storage/profile.py): the step without exchange of gradients at
several batch sizes, when each gradient is ready, the exchange without a step, and sums of 4 KiB to 64 MiB. Collective.
Seconds and bytes. Weights stay as they are, but batch statistics move on: the run must be over.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

import numpy as np
import torch

from hpctrain.storage.profile import Arrival, Computing, Profile
from hpctrain.training.comm import Comm
from hpctrain.training.machine_peaks import sums, wait
from hpctrain.training.step import Trainer

SWEEP_BYTES = tuple(4096 * 4**k for k in range(8))
BATCHES = 4  # the run's batch, a half, a quarter, an eighth: strong scaling makes the batch of a rank smaller


def profile(trainer: Trainer, comm: Comm, steps: int) -> Profile:
    """Returns the whole profile, from `steps` steps of each kind; the same on every rank. Collective."""
    trainer.norms.together = True  # the last step may have been a smaller one, at the end of an epoch
    sizes = [trainer.batch_size >> k for k in range(BATCHES) if k == 0 or trainer.batch_size >> k > 1]
    hooks = _Arrivals(trainer)
    of_size = {size: _compute(trainer, comm, size, steps, hooks) for size in sizes}
    hooks.remove()
    _, optimizer_s, gradients = of_size[sizes[0]]
    device = next(trainer.model.parameters()).device
    return {
        "ranks": comm.size,
        "ranks_per_node": comm.local_size,
        "batch_size": sizes[0],
        "device": device.type,
        "cores": os.cpu_count() or 1,
        "gradients": gradients,
        "computing": {str(size): computing for size, (computing, _, _) in of_size.items()},
        "optimizer_s": optimizer_s,
        "exchange_s": _exchange(trainer, comm, steps),
        "sums": sums(comm, device, SWEEP_BYTES),
    }


class _Arrivals:
    """Notes when the backward pass has each gradient: one mark per parameter."""

    def __init__(self, trainer: Trainer) -> None:
        self.parameters = [p for bucket in trainer.exchange.buckets for p in bucket.parameters]
        self.names = {id(p): name for name, p in trainer.model.named_parameters()}
        self.marks: dict[int, Any] = {}
        self._gpu = self.parameters[0].is_cuda
        self._handles = [p.register_post_accumulate_grad_hook(self._mark) for p in self.parameters]

    def _mark(self, parameter: torch.Tensor) -> None:
        self.marks[id(parameter)] = self.now()

    def now(self) -> Any:
        """Returns the present moment: an event on the stream of a GPU, or the clock's time."""
        if not self._gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def s(self, before: Any, after: Any) -> float:
        """Returns the seconds between two moments."""
        if not self._gpu:
            return float(after - before)
        after.synchronize()
        return float(before.elapsed_time(after) / 1e3)

    def remove(self) -> None:
        """Take the hooks from the parameters."""
        for handle in self._handles:
            handle.remove()


def _compute(
    trainer: Trainer, comm: Comm, size: int, steps: int, at: _Arrivals
) -> tuple[Computing, float, list[Arrival]]:
    """Returns the times of steps without exchange on `size` samples per rank, which all ranks begin together, the
    seconds of an update, and when each gradient is ready.

    The first step does not count. The updates have learning rate zero.
    """
    parts: list[tuple[float, float, float]] = []
    cpu_s: list[float] = []
    ready_s: dict[int, list[float]] = {}
    indices = np.arange(size, dtype=np.int64) % len(trainer.dataset)
    optimizer_s: list[float] = []
    for _ in range(steps + 1):
        comm.barrier()
        begun = at.now()
        trainer.exchange.begin()
        start, cpu_before_s = at.now(), time.process_time()
        batch = trainer.dataset.batch(indices, torch.Generator().manual_seed(0))
        loaded = at.now()
        total, _, _ = trainer.forward(batch)
        forward = at.now()
        at.marks.clear()
        (total / size).backward()
        backward = at.now()
        cpu_s.append(time.process_time() - cpu_before_s)
        trainer.update(0.0)
        updated = at.now()
        parts.append((at.s(start, loaded), at.s(loaded, forward), at.s(forward, backward)))
        optimizer_s.append(at.s(begun, start) + at.s(backward, updated))
        for key, mark in at.marks.items():
            ready_s.setdefault(key, []).append(at.s(forward, mark))
    parts = parts[1:]
    data_s, forward_s, backward_s = (statistics.median(part) for part in zip(*parts, strict=True))
    unused = [backward_s]
    computing: Computing = {
        "data_s": data_s,
        "forward_s": forward_s,
        "backward_s": backward_s,
        "cpu_s": statistics.median(cpu_s[1:]),
        "step_s": comm.gather_objects([sum(part) for part in parts]),
    }
    gradients: list[Arrival] = [
        {
            "name": at.names[id(p)],
            "bytes": p.numel() * p.element_size(),
            "ready_s": statistics.median(ready_s.get(id(p), unused)[1:] or unused),
        }
        for p in at.parameters
    ]
    return computing, statistics.median(optimizer_s[1:]), gradients


def _exchange(trainer: Trainer, comm: Comm, steps: int) -> list[float]:
    """Returns the seconds of the whole exchange without a backward pass that hides it, one value per step."""
    if comm.size == 1:
        return []
    device, taken = next(trainer.model.parameters()).device, []
    for _ in range(steps + 1):
        trainer.exchange.begin()
        trainer.exchange.arm()
        wait(device)
        comm.barrier()
        start = time.perf_counter()
        trainer.exchange.finish()
        wait(device)
        taken.append(time.perf_counter() - start)
    return taken[1:]
