"""One optimiser step: the numerical core. No files, no clock-driven decisions.

Takes this rank's share of a batch; returns sums over all ranks. Side effects: parameters, gradients, optimiser state
and the random generators move on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hpctrain.data.sampler import Share
from hpctrain.tasks import Batch, Carry, Task
from hpctrain.training.exchange import Exchange
from hpctrain.training.group_batch_norm import Group
from hpctrain.training.step_timer import Clock
from hpctrain.training.stop import STOP_REASONS

# These numbers are summed with the gradients, after the task's sums: 1 if the gradient is not finite, 1 if the clock of
# rank 0 asks for a checkpoint, and for each reason to stop the number of ranks that have it.
FLAGS = 2 + len(STOP_REASONS)


@dataclass
class Trainer:
    """Everything that a step needs and that stays the same from step to step."""

    model: nn.Module
    task: Task
    dataset: Any
    optimizer: Any
    exchange: Exchange
    autocast: Callable[[], AbstractContextManager[Any]]
    batch_size: int
    clip_norm: float | None
    clock: Clock
    norms: Group = field(default_factory=Group)

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
        """θ ← θ − η g with g the mean gradient over the global batch, whichever ranks hold its samples. Collective.

        Returns a vector (task.width + FLAGS,) of task sums, then flags, summed over ranks; and the next carry, tensors
        with this rank's samples in dimension 1. If the gradient of any rank is not finite, every rank sees it in the
        sum and none applies the update.
        """
        exchange, clock = self.exchange, self.clock
        clock.mark("other")
        exchange.begin()
        clock.mark("optimizer")  # zeroing the gradients counts as the last part of the update
        if save:
            exchange.extras[self.task.width + 1] = 1
        if stop is not None:
            exchange.extras[self.task.width + 2 + STOP_REASONS.index(stop)] = 1
        carried = Carried(None if share.fresh else carry)
        # If some rank has one micro-batch less, each rank uses the statistics of its own samples.
        self.norms.together = share.in_step(self.batch_size)
        clock.mark("other")
        micro = share.micro_batches(self.batch_size)  # may be empty: then this rank adds zeros
        for place in micro:
            batch = self.dataset.batch(share.indices[place], generator)
            clock.mark("data")
            total, sums, state = self.forward(batch, carried.of(place))
            carried.keep(state)
            exchange.extras[: self.task.width] += sums
            clock.mark("forward")
            if place is micro[-1]:
                exchange.arm()
            (total / share.global_count).backward()
            del batch, total, sums, state  # free their memory before the exchange ends
            clock.mark("backward")
        exchange.finish()
        clock.mark("allreduce")
        self.update(lr)
        clock.mark("optimizer")
        return exchange.extras, carried.whole()

    def forward(self, batch: Batch, carry: Carry = None) -> tuple[Tensor, Tensor, Carry]:
        """Returns the summed loss of a batch (scalar), the task's sums (task.width,) and the next carry.

        The number format is the run's.
        """
        with self.autocast():
            return self.task.loss(self.model, batch, carry)

    def update(self, lr: float) -> None:
        """Clip the summed gradients and move the weights, unless something is not finite, which sets the first flag."""
        exchange = self.exchange
        norm = exchange.norm()
        seen = norm + exchange.extras[0]
        if seen.is_cuda:  # the host does not wait for the answer
            self.optimizer.found_inf = bad = (~torch.isfinite(seen)).float()
            exchange.extras[self.task.width] = bad
        elif not math.isfinite(seen.item()):
            exchange.extras[self.task.width] = 1
            return
        if self.clip_norm is not None:
            exchange.scale((self.clip_norm / (norm + 1e-6)).clamp(max=1.0))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        exchange.leave_out_unused()
        self.optimizer.step()


class Carried:
    """The recurrent state of this rank's samples, micro-batch by micro-batch: tensors (layers, B, hidden)."""

    def __init__(self, before: Carry) -> None:
        self._before = before
        self._after: list[Carry] = []

    def of(self, place: slice) -> Carry:
        """Returns the part of the last step's state that belongs to the samples `place`, which are dimension 1."""
        return None if self._before is None else tuple(p[:, place].contiguous() for p in self._before)

    def keep(self, state: Carry) -> None:
        """Take the state after the next micro-batch."""
        self._after.append(state)

    def whole(self) -> Carry:
        """Returns the state of all samples, (layers, B, hidden), for the next step."""
        states = [state for state in self._after if state is not None]
        if len(states) <= 1:
            return states[0] if states else None
        return tuple(torch.cat(parts, dim=1) for parts in zip(*states, strict=True))
