"""The cost of one training step, for the training loop and for estimates.

Takes a count, or a module, a batch's inputs and the optimiser's settings; returns operations per sample. A MAC is
two operations (the `flops` convention); other arithmetic is not included. Imports torch only to count a module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hpctrain.errors import RunFailed
from hpctrain.flops import roofline
from hpctrain.flops.result import Count
from hpctrain.flops.rules import Cost
from hpctrain.flops.runs import optimizer_elements, optimizer_flops
from hpctrain.hardware import Device


@dataclass(frozen=True)
class StepWork:
    """Operations per sample, and of the optimiser per step. `passes`: those of each layer, over all `samples`."""

    params: int
    samples: int
    forward_flops: float
    backward_flops: float
    optimizer_flops: int
    optimizer_elements: int
    passes: tuple[Cost, ...]
    agreed: bool  # whether both counts are equal

    def least_s(self, device: Device, dtype: str) -> tuple[float, float]:
        """Returns the least seconds that `device` needs for one sample of such a batch, and for one update (in fp32).

        Raises UserError if the peak for `dtype` is unknown.
        """
        passes = roofline.joined(roofline.bound(cost, device, dtype) for cost in self.passes)
        return passes.seconds / self.samples, self.optimizer_elements * 4 / device.bytes_per_s


def work_of(counted: Count, optimizer: Any, samples: int, *, agreed: bool = True) -> StepWork:
    """Returns the work that was counted for `samples` samples. `optimizer` is a settings object with a `name`."""
    return StepWork(
        counted.params,
        samples,
        2 * counted.forward.macs / samples,
        2 * counted.backward.macs / samples,
        optimizer_flops(counted, optimizer),
        optimizer_elements(counted, optimizer),
        tuple(
            cost for layer in counted.layers for cost in (layer.forward, layer.weight_grad, layer.input_grad)
        ),
        agreed and not counted.unknown,
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
    """Returns the work of one step of a torch.nn.Module over `inputs`, which hold `samples` samples.

    If the two counts differ, the closed form is used and `agreed` is false, because a run must not stop for it.
    Raises UserError as `count` does.
    """
    from hpctrain.flops.count import count

    agreed = True
    try:
        counted = count(model, inputs, loss=loss, training=True, allow_unknown=allow_unknown)
    except RunFailed:
        agreed = False
        counted = count(model, inputs, loss=loss, training=True, allow_unknown=allow_unknown, check=False)
    return work_of(counted, optimizer, samples, agreed=agreed)
