"""A count as `hpctrain flops` reports it: one document, the same for --json, the table, --csv and plots.

Takes a request and its `Count`, returns JSON-able figures with units in their names. Pure; imports no torch.
The figures at the top are for one unit (an image, a word, ...), under the convention named beside them.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import NotRequired, TypedDict

from hpctrain.flops import conventions, roofline
from hpctrain.flops.conventions import Convention
from hpctrain.flops.request import Request
from hpctrain.flops.result import Count, Layer, forward_only
from hpctrain.flops.rules import Cost
from hpctrain.flops.runs import RunFigures, optimizer_elements, optimizer_flops
from hpctrain.hardware import Device
from hpctrain.models.network import Mixture

PASSES: dict[str, Callable[[Layer], Cost]] = {
    "forward": lambda layer: layer.forward,
    "weight_grad": lambda layer: layer.weight_grad,
    "input_grad": lambda layer: layer.input_grad,
}


class Headline(TypedDict):
    """The figures per unit at the top, without the layers that published figures leave out."""

    model: str
    unit: str
    params: int
    forward_macs: float
    forward_flops: float
    backward_flops: float
    weight_grad_flops: float
    input_grad_flops: float
    recomputed_flops: float
    convention: str
    source: str
    units: int


class Figures(TypedDict):
    """The work of some layers per unit."""

    forward_macs: float
    forward_flops: float
    weight_grad_flops: float
    input_grad_flops: float


class Whole(Figures):
    """All layers per unit, and one update."""

    params: int
    optimizer_flops: int


class Operations(TypedDict):
    """Operations per unit that are not MACs."""

    forward_ops: float
    backward_ops: float


class Row(TypedDict):
    """The figures of a layer per unit. Its bound is present if the device is known."""

    name: str
    type: str
    params: int
    forward_macs: float
    padding_macs: float
    forward_flops: float
    weight_grad_flops: float
    input_grad_flops: float
    read_bytes: float
    written_bytes: float
    in_headline: bool
    bound_s: NotRequired[float]
    bound_by: NotRequired[str]
    flops_per_byte: NotRequired[float]


class Covered(TypedDict):
    """How much of the network the count covers."""

    layers_counted: int
    layers_with_unknown: int
    params_share: float


class MixtureFigures(TypedDict):
    """A mixture's experts, parameters, capacity, and the cost of gates and dispatch per unit."""

    mixtures: int
    experts: int
    active_experts: int
    params_total: int
    params_active: int
    capacity_vectors: int
    expert_slots_per_vector: float
    gate_macs: float
    dispatch_bytes: int


class LowerBound(TypedDict, total=False):
    """The roofline time of a step on a device (flops/roofline.py); `compute_s`: of the passes' products alone.

    `step_flops` are those of MFU. `optimizer_s` is present for training; `measured_step_s`, `mfu` and `roofline_share`
    are present if a measurement was given.
    """

    device: str
    device_source: str
    peak_flops_per_s: float
    bytes_per_s: float
    passes_s: float
    compute_s: float
    optimizer_s: float
    step_s: float
    step_flops: int
    measured_step_s: float
    mfu: float
    roofline_share: float


class Document(Headline):
    """All figures of one count. `covered` is present if some operators are unknown."""

    optimizer_flops: int
    mode: str
    batch: int
    whole: Whole
    by_kind: dict[str, Operations]
    dtype: str
    optimizer: str
    layers: list[Row]
    unknown_operators: list[str]
    covered: NotRequired[Covered]
    mixture: NotRequired[MixtureFigures]
    lower_bound: NotRequired[LowerBound]
    run: NotRequired[RunFigures]


def headline(request: Request, count: Count) -> tuple[Headline, set[str]]:
    """Returns the headline, and the names of the layers that are in it."""
    model, convention = request.model, request.convention
    unit = model.network.unit
    units = request.batch * unit.in_sample(model.settings)
    layers = conventions.included(count.layers, convention.without or unit.without)
    figures = _figures(layers, convention, units)
    left_out = [part for part in (convention.left_out, unit.left_out) if part]
    params = count.params - sum(
        layer.params for layer in count.layers if unit.params_without and _in(unit.params_without, layer)
    )
    top: Headline = {
        "model": model.name if model.target is None else model.target,
        "unit": unit.name,
        "params": params,
        "forward_macs": figures["forward_macs"],
        "forward_flops": figures["forward_flops"],
        "backward_flops": figures["weight_grad_flops"] + figures["input_grad_flops"],
        "weight_grad_flops": figures["weight_grad_flops"],
        "input_grad_flops": figures["input_grad_flops"],
        "recomputed_flops": _number(Fraction(convention.mac * count.recomputed_macs, units)),
        "convention": f"{convention.name}: {convention.says}; left out: {'; '.join(left_out) or 'nothing'}",
        "source": convention.source,
        "units": units,
    }
    return top, {layer.name for layer in layers}


def document(request: Request, count: Count, device: Device | None = None) -> Document:
    """Returns all figures of one count. Raises UserError if the device's peak is unknown."""
    settings = request.settings
    if settings.mode == "inference":
        count = forward_only(count)
    top, shown = headline(request, count)
    units = top["units"]
    update = optimizer_flops(count, settings.optimizer) if settings.mode == "training" else 0
    whole = _figures(count.layers, request.convention, units)
    result: Document = {
        **top,  # type: ignore[typeddict-item]  # mypy: it might have optional keys of another type
        "optimizer_flops": update,
        "mode": settings.mode,
        "batch": request.batch,
        "whole": {"params": count.params, **whole, "optimizer_flops": update},
        "by_kind": _by_kind(count.layers, units),
        "dtype": settings.dtype,
        "optimizer": settings.optimizer.name,
        "layers": [_layer(layer, request, units, layer.name in shown) for layer in count.layers],
        "unknown_operators": [f"{operator} in {layer}" for layer, operator in count.unknown],
    }
    if count.unknown:
        result["covered"] = _covered(count)
    mixture = request.model.network.mixture
    if mixture is not None:
        result["mixture"] = _mixture(mixture(request.model.settings), request, count, units)
    if device is not None:
        result["lower_bound"] = _lower_bound(request, count, device, result["layers"], update)
    return result


def _figures(layers: Sequence[Layer], convention: Convention, units: int) -> Figures:
    return {
        "forward_macs": _number(Fraction(sum(layer.forward.macs for layer in layers), units)),
        "forward_flops": _flops(layers, "forward", convention, units),
        "weight_grad_flops": _flops(layers, "weight_grad", convention, units),
        "input_grad_flops": _flops(layers, "input_grad", convention, units),
    }


def _flops(layers: Sequence[Layer], part: str, convention: Convention, units: int) -> float:
    """Returns the operations per unit of a pass (a key of PASSES), as the convention counts them."""
    if convention.connections:
        made = sum(map(conventions.connections, layers)) if part == "forward" else 0
    else:
        made = convention.of(sum(map(PASSES[part], layers), Cost()))
    return _number(Fraction(made, units))


def _number(value: Fraction) -> int | float:
    return int(value) if value.denominator == 1 else float(value)


def _in(pattern: str, layer: Layer) -> bool:
    return re.search(pattern, layer.name) is not None


def _by_kind(layers: Iterable[Layer], units: int) -> dict[str, Operations]:
    """Returns the operations per unit that are not MACs, forward and backward, by purpose."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for layer in layers:
        for work in layer.work:
            for side, cost in enumerate((work.forward, work.backward)):
                sums["bias"][side] += cost.bias
                sums[work.kind][side] += cost.other
    return {
        key: {
            "forward_ops": _number(Fraction(forward, units)),
            "backward_ops": _number(Fraction(backward, units)),
        }
        for key, (forward, backward) in sums.items()
        if forward or backward
    }


def _layer(layer: Layer, request: Request, units: int, included: bool) -> Row:
    size = roofline.BYTES[request.settings.dtype]
    figures = _figures([layer], request.convention, units)
    moved = layer.forward + layer.weight_grad + layer.input_grad
    return {
        "name": layer.name,
        "type": layer.type,
        "params": layer.params,
        "forward_macs": figures["forward_macs"],
        "padding_macs": _number(Fraction(layer.forward.padding_macs, units)),
        "forward_flops": figures["forward_flops"],
        "weight_grad_flops": figures["weight_grad_flops"],
        "input_grad_flops": figures["input_grad_flops"],
        "read_bytes": _number(Fraction(moved.read * size, units)),
        "written_bytes": _number(Fraction(moved.written * size, units)),
        "in_headline": included,
    }


def _covered(count: Count) -> Covered:
    """Returns how much of the network the count covers, for a network with unknown operators."""
    dark = {layer for layer, _ in count.unknown}
    known = [layer for layer in count.layers if layer.name not in dark]
    return {
        "layers_counted": len(known),
        "layers_with_unknown": len(dark),
        "params_share": sum(layer.params for layer in known) / count.params if count.params else 1.0,
    }


def _mixture(of: Mixture, request: Request, count: Count, units: int) -> MixtureFigures:
    """Returns the experts' total and active parameters, capacity, and cost of gates and dispatch (Shazeer 2017)."""
    capacity = max(1, math.ceil(of.capacity * (units * of.active / of.experts)))
    gates = sum(layer.forward.macs for layer in count.layers if _in(of.gates, layer))
    size = roofline.BYTES[request.settings.dtype]
    return {
        "mixtures": of.layers,
        "experts": of.experts,
        "active_experts": of.active,
        "params_total": count.params,
        "params_active": count.params - of.layers * (of.experts - of.active) * of.expert_params,
        "capacity_vectors": capacity,
        "expert_slots_per_vector": capacity * of.experts / units,
        "gate_macs": _number(Fraction(gates, units)),
        # A vector goes to its experts, and their results come back.
        "dispatch_bytes": 2 * of.layers * of.active * of.width * size,
    }


def _lower_bound(request: Request, count: Count, device: Device, rows: list[Row], update: int) -> LowerBound:
    """Returns the roofline time of a step on `device`, summed over passes. Adds to each row that of its layer."""
    precision, total, products = request.settings.dtype, 0.0, 0
    for layer, row in zip(count.layers, rows, strict=True):
        bound = roofline.joined(roofline.bound(of(layer), device, precision) for of in PASSES.values())
        row["bound_s"], row["bound_by"], row["flops_per_byte"] = bound.seconds, bound.by, bound.intensity
        total += bound.seconds
        products += bound.flops
    result: LowerBound = {
        "device": device.name,
        "device_source": device.source,
        "peak_flops_per_s": device.flops[precision],
        "bytes_per_s": device.bytes_per_s,
        "passes_s": total,
        "compute_s": products / device.flops[precision],
    }
    if request.settings.mode == "training":
        moved = optimizer_elements(count, request.settings.optimizer) * 4  # kept in fp32
        result["optimizer_s"] = max(
            update / device.flops.get("fp32", float("inf")), moved / device.bytes_per_s
        )
        total += result["optimizer_s"]
    flops = 2 * (count.forward.macs + count.backward.macs)
    result["step_s"], result["step_flops"] = total, flops
    if request.settings.measured_step_s:
        took_s = result["measured_step_s"] = request.settings.measured_step_s
        result["mfu"] = roofline.mfu(flops, took_s, device.flops[precision])
        result["roofline_share"] = total / took_s
    return result
