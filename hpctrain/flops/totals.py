"""What a whole run costs: samples, epochs, accumulation and ranks to operations.

Takes costs of one sample and one optimiser step, returns totals. Pure arithmetic; imports no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from hpctrain.flops import rules
from hpctrain.flops.result import Count

EXA = 10**18


@dataclass(frozen=True)
class RunTotal:
    """Operations of a run: `useful` is forward and backward passes; each rank updates all parameters."""

    steps: int
    useful: int
    optimizer: int

    @property
    def exaflops(self) -> float:
        return (self.useful + self.optimizer) / EXA


def run_total(
    per_sample: Fraction,
    optimizer: int,
    *,
    samples: int,
    epochs: float,
    batch: int,
    accumulate: int = 1,
    ranks: int = 1,
) -> RunTotal:
    """`per_sample`: forward and backward operations; `batch` is a rank's; each epoch's last, smaller step counts."""
    whole, part = divmod(Fraction(str(epochs)), 1)
    effective = batch * accumulate * ranks
    steps = int(whole) * -(-samples // effective) + math.ceil(samples * part / effective)
    return RunTotal(steps, round(samples * Fraction(str(epochs)) * per_sample), steps * optimizer * ranks)


def optimizer_flops(found: Count, optimizer: Any) -> int:
    """Operations of one update of all trained parameters; vectors undecayed where the settings say so."""
    name = optimizer.name
    decay, vectors_too = (
        getattr(optimizer, "weight_decay", 0.0) > 0,
        getattr(optimizer, "decay_norm_and_bias", True),
    )
    return sum(
        size
        * rules.optimizer_ops(
            name,
            momentum=getattr(optimizer, "momentum", 0.0) > 0,
            nesterov=getattr(optimizer, "nesterov", False),
            weight_decay=decay and (vectors_too or dims > 1),
            matrix=dims > 1,
        )
        for size, dims in found.parameter_sizes
    )


def optimizer_elements(found: Count, optimizer: Any) -> int:
    """Elements that one update moves: weight, gradient and state read, weight and state written."""
    states = 2 if optimizer.name in ("adam", "adamw") else int(getattr(optimizer, "momentum", 0.0) > 0)
    return sum(size for size, _ in found.parameter_sizes) * (3 + 2 * states)
