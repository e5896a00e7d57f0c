"""One optimiser step, and one evaluation: the numerical core. No files, no clock-driven decisions.

Takes a rank's share of a batch, gives sums over all ranks. Side effects: parameters, gradients, optimiser
state and the random generators move on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hpctrain.data.sampler import Indices, Share, part
from hpctrain.tasks import Carry, Task
from hpctrain.training.clock import Clock
from hpctrain.training.comm import Comm
from hpctrain.training.exchange import GradientExchange
from hpctrain.training.stop import STOP_REASONS

# Ride along with the gradients, after the task's sums: was the gradient not finite, does rank 0's clock ask
# for a checkpoint, and how many ranks want to stop, a slot for each reason.
FLAGS = 2 + len(STOP_REASONS)


@dataclass
class Trainer:
    """What a step needs that does not change from step to step."""

    model: nn.Module
    task: Task
    dataset: Any
    optimizer: Any
    exchange: GradientExchange
    autocast: Callable[[], AbstractContextManager[Any]]
    batch_size: int
    clip_norm: float | None
    clock: Clock

    def step(
        self,
        share: Share,
        generator: torch.Generator,
        carry: Carry,
        lr: float,
        *,
        save: bool = False,
        stop: str | None = None,
    ) -> tuple[Tensor, Carry]:
        """θ ← θ − η g with g the mean gradient over the global batch, whoever holds its samples.

        Gives the exchange's extras (task sums, then flags), summed over ranks. Where the gradient of any
        rank is not finite, every rank sees it in the sum and none applies the update.
        """
        exchange, clock = self.exchange, self.clock
        exchange.begin()
        flags = exchange.extras[self.task.width :]
        flags[1] = save
        if stop is not None:
            flags[2 + STOP_REASONS.index(stop)] = 1
        micro = max(1, -(-len(share.indices) // self.batch_size))
        clock.mark("other")
        for number in range(micro):
            indices = share.indices[part(len(share.indices), number, micro)]
            if len(indices) == 0:
                break  # fewer samples left than ranks: this rank adds zeros
            batch = self.dataset.batch(indices, generator)
            clock.mark("data")
            with self.autocast():
                total, sums, carry = self.task.loss(self.model, batch, carry)
            exchange.extras[: self.task.width] += sums
            clock.mark("forward")
            if number == micro - 1:
                exchange.arm()
            (total / share.global_count).backward()
            clock.mark("backward")
        exchange.finish()
        clock.mark("allreduce")
        self._update(lr)
        clock.mark("optimizer")
        return exchange.extras, carry

    def _update(self, lr: float) -> None:
        norm = self.exchange.norm()
        loss = self.exchange.extras[0]
        bad = (~torch.isfinite(norm + loss)).float()
        self.exchange.extras[self.task.width] = bad
        if self.clip_norm is not None:
            self.exchange.scale((self.clip_norm / (norm + 1e-6)).clamp(max=1.0))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.found_inf = bad
        self.optimizer.step()


@torch.no_grad()
def evaluate(
    model: nn.Module,
    task: Task,
    dataset: Any,
    comm: Comm,
    batch_size: int,
    autocast: Callable[[], AbstractContextManager[Any]],
    tick: Callable[[], None],
) -> list[float]:
    """The task's sums over the whole data set: each sample once, whatever the number of ranks."""
    model.eval()
    own: Indices = np.arange(len(dataset), dtype=np.int64)[part(len(dataset), comm.rank, comm.size)]
    sums: Tensor | None = None
    carry: Carry = None
    for start in range(0, len(own), batch_size):
        batch = dataset.batch(own[start : start + batch_size])
        with autocast():
            _, more, carry = task.loss(model, batch, carry)
        sums = more if sums is None else sums + more
        tick()
    model.train()
    total = torch.zeros(task.width, device=next(model.parameters()).device) if sums is None else sums
    # Counts beyond 2^24 are not exact in float32: added up over ranks in float64 on the host.
    per_rank = comm.gather_objects(total.double().tolist())
    return [sum(values) for values in zip(*per_rank, strict=True)]
