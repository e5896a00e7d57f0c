"""The least time of a step on a device, layer by layer: time ≥ Σ max(FLOPs / peak, bytes / bandwidth).

Takes layers' costs and a device's peaks; returns seconds. It assumes that each tensor moves once per pass, that
caches keep nothing between layers, and that no layers are fused. Pure; imports no torch. Source: Williams,
Waterman & Patterson 2009, "Roofline: an insightful visual performance model".
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
    """The least seconds of one layer's passes, and what bounds them: `by` is compute or memory."""

    seconds: float
    by: str
    flops: int
    moved_bytes: int

    @property
    def intensity(self) -> float:
        """FLOPs per byte."""
        return self.flops / self.moved_bytes if self.moved_bytes else 0.0


def bound(cost: Cost, device: Device, precision: str) -> Bound:
    """Returns the bound of one pass, with MACs at the device's peak rate. Raises UserError if that is unknown."""
    if precision not in device.flops:
        raise UserError(
            "dtype", precision, f"the peak of {device.name} is known for {', '.join(device.flops)}"
        )
    flops = 2 * cost.macs
    moved = (cost.read + cost.written) * BYTES[precision]
    compute, memory = flops / device.flops[precision], moved / device.bytes_per_s
    return Bound(max(compute, memory), "compute" if compute >= memory else "memory", flops, moved)


def joined(parts: Iterable[Bound]) -> Bound:
    """Returns the bound of consecutive passes; `by` is what bounds most of their time."""
    bounds = list(parts)
    seconds = sum(b.seconds for b in bounds)
    compute = sum(b.seconds for b in bounds if b.by == "compute")
    return Bound(
        seconds,
        "compute" if compute * 2 >= seconds else "memory",
        sum(b.flops for b in bounds),
        sum(b.moved_bytes for b in bounds),
    )


def utilisation(
    flops: float, bound_s: float, step_s: float, device: Device, precision: str
) -> tuple[float, float]:
    """Returns (MFU, share of the roofline) of a measured step of `step_s` seconds with `flops` operations."""
    return flops / step_s / device.flops[precision], bound_s / step_s
