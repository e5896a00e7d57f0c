"""What one training step costs, for the training loop and for estimates.

Takes a count, or a module, a batch's inputs and the optimiser's settings; returns operations per sample. A MAC is
two operations (the `flops` convention); other arithmetic is not in it. Imports torch only to count a module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hpctrain.errors import RunFailed
from hpctrain.flops import roofline
from hpctrain.flops.result import Count
from hpctrain.flops.rules import Cost
from hpctrain.flops.totals import optimizer_elements, optimizer_flops
from hpctrain.hardware import Device


@dataclass(frozen=True)
class StepWork:
    """Operations per sample; of the optimiser, a step. `passes` are those of each layer over all `samples`."""

    params: int
    samples: int
    forward_flops: float
    backward_flops: float
    recomputed_flops: float
    optimizer_flops: int
    optimizer_elements: int
    passes: tuple[Cost, ...]
    agreed: bool  # whether both counts gave the same

    def least_s(self, device: Device, dtype: str) -> tuple[float, float]:
        """Seconds that `device` needs at least for one sample of such a batch, and for one update (in fp32)."""
        passes = roofline.joined(roofline.bound(cost, device, dtype) for cost in self.passes)
        return passes.seconds / self.samples, self.optimizer_elements * 4 / device.bytes_per_s


def work_of(found: Count, optimizer: Any, samples: int, *, agreed: bool = True) -> StepWork:
    """`optimizer` is a settings object with `name`; the count is of `samples` samples."""
    return StepWork(
        found.params,
        samples,
        2 * found.forward.macs / samples,
        2 * found.backward.macs / samples,
        2 * found.recomputed_macs / samples,
        optimizer_flops(found, optimizer),
        optimizer_elements(found, optimizer),
        tuple(
            cost for layer in found.layers for cost in (layer.forward, layer.weight_grad, layer.input_grad)
        ),
        agreed and not found.unknown,
    )


def step_work(
    model: Any,
    inputs: Sequence[Any],
    optimizer: Any,
    *,
    loss: Callable[[Any], Any] | None = None,
    samples: int = 1,
    allow_unknown: bool = True,
) -> StepWork:
    """The work of one step of a torch.nn.Module over `inputs`, which hold `samples` samples.

    A run does not stop over a difference between the two counts: the closed form is taken, and `agreed` is
    false.
    """
    from hpctrain.flops.count import count

    agreed = True
    try:
        found = count(model, inputs, loss=loss, training=True, allow_unknown=allow_unknown)
    except RunFailed:
        agreed = False
        found = count(model, inputs, loss=loss, training=True, allow_unknown=allow_unknown, check=False)
    return work_of(found, optimizer, samples, agreed=agreed)
