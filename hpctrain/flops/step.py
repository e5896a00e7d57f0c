"""The cost of one training step, for the training loop and for estimates.

Takes a count, or a module, a batch's inputs and the optimiser's settings; returns operations per sample. A MAC is
two operations (the `flops` convention); other arithmetic is not included. Imports torch only to count a module.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hpctrain.errors import RunFailed, Uncounted, UserError
from hpctrain.flops import roofline
from hpctrain.flops.result import Count
from hpctrain.flops.rules import Cost
from hpctrain.flops.runs import optimizer_elements, optimizer_flops
from hpctrain.hardware import Device

# Types of layers that torch gives to cuDNN, which may multiply fp32 as TF32 unless it is forbidden.
CUDNN = re.compile("Conv|LSTM|GRU|RNN")


@dataclass(frozen=True)
class StepWork:
    """Operations per sample, and of the optimiser per step. `passes`: those of each layer, over all `samples`.

    `cudnn`: whether a layer is one of CUDNN.
    """

    params: int
    samples: int
    forward_flops: float
    backward_flops: float
    optimizer_flops: int
    optimizer_elements: int
    passes: tuple[Cost, ...]
    cudnn: bool = False

    def format(self, device: Device, precision: str, matmul: bool = False, cudnn: bool = True) -> str:
        """Returns the format of the fastest products: TF32 instead of fp32 if the device has it and torch allows it.

        `matmul` and `cudnn` are torch's switches for matrix products and for cuDNN, with their defaults.
        """
        allowed = matmul or (cudnn and self.cudnn)
        return "tf32" if precision == "fp32" and allowed and "tf32" in device.flops else precision

    def roofline_s(self, device: Device, dtype: str) -> tuple[float, float]:
        """Returns the roofline seconds of one sample of such a batch on `device`, and of one update (in fp32).

        Raises UserError if the peak for `dtype` is unknown.
        """
        passes = roofline.joined(roofline.bound(cost, device, dtype) for cost in self.passes)
        return passes.seconds / self.samples, self.optimizer_elements * 4 / device.bytes_per_s


def work_of(counted: Count, optimizer: Any, samples: int) -> StepWork:
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
        any(CUDNN.search(layer.type) for layer in counted.layers),
    )


def step_work(
    model: Any,
    inputs: Sequence[Any],
    optimizer: Any,
    *,
    loss: Callable[[Any], Any] | None = None,
    samples: int = 1,
) -> StepWork:
    """Returns the work of one step of a torch.nn.Module over `inputs`, which hold `samples` samples.

    Raises Uncounted, and nothing else, if the work cannot be counted: no run fails because of its count.
    """
    from hpctrain.flops.count import count

    try:
        counted = count(model, inputs, loss=loss, training=True, allow_unknown=True)
    except (UserError, RunFailed) as error:
        raise Uncounted(error.allowed if isinstance(error, UserError) else str(error)) from error
    if counted.unknown:
        raise Uncounted("; ".join(f"{name} has no rule (in {layer})" for layer, name in counted.unknown))
    return work_of(counted, optimizer, samples)
