"""What one training step costs, for the training loop.

Takes the module, one sample's inputs and the optimiser's settings; gives operations a sample. A MAC is two
operations (the `flops` convention); other arithmetic is not in it. No side effects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from hpctrain.errors import RunFailed
from hpctrain.flops.count import Loss, count
from hpctrain.flops.totals import optimizer_flops


@dataclass(frozen=True)
class StepWork:
    """Operations a sample; of the optimiser, a step. `elements` are moved by forward and backward pass."""

    params: int
    forward_flops: float
    backward_flops: float
    recomputed_flops: float
    optimizer_flops: int
    elements: float
    agreed: bool  # whether both counts gave the same


def step_work(
    model: nn.Module,
    inputs: Sequence[Any],
    optimizer: Any,
    *,
    loss: Loss | None = None,
    samples: int = 1,
    allow_unknown: bool = True,
) -> StepWork:
    """The work of one step over `inputs`, which hold `samples` samples.

    `optimizer` is a settings object with `name`, or a name. A run does not stop over a difference between
    the two counts: the closed form is taken, and `agreed` is false.
    """
    agreed = True
    try:
        found = count(model, inputs, loss=loss, training=True, allow_unknown=allow_unknown)
    except RunFailed:
        agreed = False
        found = count(model, inputs, loss=loss, training=True, allow_unknown=allow_unknown, check=False)
    moved = found.forward + found.backward
    return StepWork(
        found.params,
        2 * found.forward.macs / samples,
        2 * found.backward.macs / samples,
        2 * found.recomputed_macs / samples,
        optimizer_flops(found, optimizer),
        (moved.read + moved.written) / samples,
        agreed and not found.unknown,
    )
