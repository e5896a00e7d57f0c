"""The learning rate as a pure function of the step. Times are in epochs; no I/O, no torch.

lr(step) = optimizer.lr × scaling(effective batch) × warm-up(step) × decay(step)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hpctrain.config.settings import ScheduleConfig


@dataclass(frozen=True)
class Schedule:
    """The schedule of one run. `base_lr` is the rate at `reference_batch`."""

    config: ScheduleConfig
    base_lr: float
    effective_batch: int
    steps_per_epoch: int
    total_steps: int

    def lr(self, step: int, validation_losses: Sequence[float] = ()) -> float:
        """Returns the rate for step `step` (from 0), given the validation losses of the epochs before it."""
        return self.peak_lr * self._warmup(step) * self._decay(step, validation_losses)

    @property
    def peak_lr(self) -> float:
        """The rate after scaling: linear (Goyal et al. 2017, arXiv:1706.02677) or square root (Krizhevsky 2014)."""
        ratio = self.effective_batch / self.config.reference_batch
        return self.base_lr * {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[self.config.scaling]

    def _warmup(self, step: int) -> float:
        """Linear from 1/n to 1 over the first n steps."""
        steps = round(self.config.warmup_epochs * self.steps_per_epoch)
        return min(1.0, (step + 1) / steps) if steps else 1.0

    def _decay(self, step: int, validation_losses: Sequence[float]) -> float:
        c, epoch = self.config, step / self.steps_per_epoch
        match c.name:
            case "cosine" | "linear":
                first = min(round(c.warmup_epochs * self.steps_per_epoch), self.total_steps)
                done = min(max(step - first, 0) / max(self.total_steps - first, 1), 1.0)
                left = (1 + math.cos(math.pi * done)) / 2 if c.name == "cosine" else 1 - done
                return c.final_factor + (1 - c.final_factor) * left
            case "step":
                return c.factor ** sum(epoch >= milestone for milestone in c.milestones_epochs)
            case "exponential":
                return float(c.factor ** max(0, math.floor(epoch) + 1 - c.start_epochs))
            case "plateau":
                return c.factor ** plateau_cuts(validation_losses, c.patience_epochs)
        return 1.0


def plateau_cuts(losses: Sequence[float], patience: int) -> int:
    """Returns how often `losses` failed to improve on their best for more than `patience` epochs in a row."""
    best, bad, cuts = math.inf, 0, 0
    for loss in losses:
        if loss < best:
            best, bad = loss, 0
        else:
            bad += 1
            if bad > patience:
                cuts, bad = cuts + 1, 0
    return cuts
