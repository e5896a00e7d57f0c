"""What a whole run costs: samples, lengths, epochs, accumulation and ranks to operations.

Takes costs of one sample and one optimiser step, gives totals. Pure arithmetic; imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

EXA = 10**18


@dataclass(frozen=True)
class RunTotal:
    """Operations of a run: `useful` is forward and backward passes; each rank updates all parameters."""

    units: int
    steps: int
    useful: int
    optimizer: int

    @property
    def exaflops(self) -> float:
        return (self.useful + self.optimizer) / EXA


def units_of(samples: int, epochs: float, lengths: Mapping[int, float] | None = None) -> int:
    """Units (images, words, steps) seen: `lengths` maps units a sample to the share of samples; default 1 each."""
    shares = {int(length): Fraction(str(share)) for length, share in (lengths or {1: 1.0}).items()}
    mean = sum(length * share for length, share in shares.items()) / sum(shares.values())
    return round(samples * Fraction(str(epochs)) * mean)


def run_total(
    per_unit: Fraction,
    optimizer: int,
    *,
    samples: int,
    epochs: float,
    batch: int,
    accumulate: int = 1,
    ranks: int = 1,
    lengths: Mapping[int, float] | None = None,
) -> RunTotal:
    """`per_unit`: forward and backward operations a unit; `batch` is a rank's; a last, smaller step counts."""
    units = units_of(samples, epochs, lengths)
    steps = math.ceil(samples * Fraction(str(epochs)) / (batch * accumulate * ranks))
    return RunTotal(units, steps, round(units * per_unit), steps * optimizer * ranks)
