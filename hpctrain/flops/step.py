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
from hpctrain.flops import rules
from hpctrain.flops.count import Count, Loss, count


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


def optimizer_flops(found: Count, optimizer: Any) -> int:
    """Operations of one update of all trained parameters; vectors undecayed where the settings say so."""
    name = optimizer if isinstance(optimizer, str) else optimizer.name
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
