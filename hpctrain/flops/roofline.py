"""The roofline time of a step on a device, layer by layer: Σ max(FLOPs / peak, bytes / bandwidth). And MFU.

Takes layers' costs and a device's peaks; returns seconds. It is the time of direct algorithms at the device's limits:
each product is made, except those with padding zeros, each tensor moves once per pass, caches keep nothing between
layers, and no layers are fused. Kernels that do less are faster: fused ones, and fast algorithms (Winograd's for 3x3
convolutions has 4/9 of the products with tiles of 2x2). So it is a reference, not a bound. Pure; imports no torch.
Source: Williams, Waterman & Patterson 2009, "Roofline: an insightful visual performance model".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hpctrain.errors import UserError
from hpctrain.flops.rules import Cost
from hpctrain.hardware import Device

BYTES = {"fp64": 8, "fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True)
class Bound:
    """The roofline seconds of one layer's passes, and what takes them: `by` is compute or memory."""

    seconds: float
    by: str
    flops: int
    moved_bytes: int

    @property
    def intensity(self) -> float:
        """FLOPs per byte."""
        return self.flops / self.moved_bytes if self.moved_bytes else 0.0


def bound(cost: Cost, device: Device, precision: str) -> Bound:
    """Returns the roofline time of one pass, with MACs at the device's peak. Raises UserError if that is unknown."""
    if precision not in device.flops:
        raise UserError(
            "dtype", precision, f"the peak of {device.name} is known for {', '.join(device.flops)}"
        )
    flops = 2 * (cost.macs - cost.padding_macs)
    moved = (cost.read + cost.written) * BYTES[precision]
    compute, memory = flops / device.flops[precision], moved / device.bytes_per_s
    return Bound(max(compute, memory), "compute" if compute >= memory else "memory", flops, moved)


def joined(parts: Iterable[Bound]) -> Bound:
    """Returns the roofline time of consecutive passes; `by` is what takes most of it."""
    bounds = list(parts)
    seconds = sum(b.seconds for b in bounds)
    compute = sum(b.seconds for b in bounds if b.by == "compute")
    return Bound(
        seconds,
        "compute" if compute * 2 >= seconds else "memory",
        sum(b.flops for b in bounds),
        sum(b.moved_bytes for b in bounds),
    )


def mfu(flops: float, seconds: float, peak_flops: float) -> float:
    """Returns the model FLOPs utilisation: the share of a device's peak that `flops` in `seconds` are.

    `flops` are those of forward and backward passes, 2 per MAC, padding included (the convention `flops`); neither the
    update nor recomputation counts. `peak_flops` is the dense peak of the format of the products. Source: Chowdhery et
    al. 2022, "PaLM", appendix B.
    """
    return flops / seconds / peak_flops
