"""A count as `hpctrain flops` reports it: one dictionary, the same for --json, the table, --csv and plots.

Takes a request and its `Count`, returns JSON-able figures with units in their names. Pure; imports no torch.
The figures at the top are for one unit (an image, a word, ...), under the convention named beside them.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

from hpctrain.flops import conventions, roofline
from hpctrain.flops.conventions import Convention
from hpctrain.flops.request import Request
from hpctrain.flops.result import Count, Layer, forward_only
from hpctrain.flops.rules import Cost
from hpctrain.flops.runs import optimizer_elements, optimizer_flops
from hpctrain.hardware import Device
from hpctrain.models.network import Mixture

PASSES: dict[str, Callable[[Layer], Cost]] = {
    "forward": lambda layer: layer.forward,
    "weight_grad": lambda layer: layer.weight_grad,
    "input_grad": lambda layer: layer.input_grad,
}


def headline(request: Request, count: Count) -> dict[str, Any]:
    """Returns the figures per unit at the top, without the layers that published figures leave out."""
    model, convention = request.model, request.convention
    unit = model.network.unit
    units = request.batch * unit.in_sample(model.settings)
    layers = conventions.included(count.layers, convention.without or unit.without)
    figures = _figures(layers, convention, units)
    left_out = [part for part in (convention.left_out, unit.left_out) if part]
    params = count.params - sum(
        layer.params for layer in count.layers if unit.params_without and _in(unit.params_without, layer)
    )
    return {
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
        "layers_in_headline": {layer.name for layer in layers},
    }


def document(request: Request, count: Count, device: Device | None = None) -> dict[str, Any]:
    """Returns all figures of one count. Raises UserError if the device's peak is unknown."""
    settings = request.settings
    if settings.mode == "inference":
        count = forward_only(count)
    top = headline(request, count)
    units, shown = top["units"], top.pop("layers_in_headline")
    update = optimizer_flops(count, settings.optimizer) if settings.mode == "training" else 0
    whole = _figures(count.layers, request.convention, units)
    result = top | {
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


def _figures(layers: Iterable[Layer], convention: Convention, units: int) -> dict[str, Any]:
    layers = list(layers)
    costs = {key: sum((of(layer) for layer in layers), Cost()) for key, of in PASSES.items()}
    figures: dict[str, Any] = {"forward_macs": _number(Fraction(costs["forward"].macs, units))}
    for key, cost in costs.items():
        made = convention.of(cost)
        if convention.connections:
            made = sum(map(conventions.connections, layers)) if key == "forward" else 0
        figures[f"{key}_flops"] = _number(Fraction(made, units))
    return figures


def _number(value: Fraction) -> int | float:
    return int(value) if value.denominator == 1 else float(value)


def _in(pattern: str, layer: Layer) -> bool:
    return re.search(pattern, layer.name) is not None


def _by_kind(layers: Iterable[Layer], units: int) -> dict[str, dict[str, Any]]:
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


def _layer(layer: Layer, request: Request, units: int, included: bool) -> dict[str, Any]:
    convention, size = request.convention, roofline.BYTES[request.settings.dtype]
    row: dict[str, Any] = {"name": layer.name, "type": layer.type, "params": layer.params}
    row["forward_macs"] = _number(Fraction(layer.forward.macs, units))
    row["padding_macs"] = _number(Fraction(layer.forward.padding_macs, units))
    for key, of in PASSES.items():
        made = convention.of(of(layer))
        if convention.connections:
            made = conventions.connections(layer) if key == "forward" else 0
        row[f"{key}_flops"] = _number(Fraction(made, units))
    moved = layer.forward + layer.weight_grad + layer.input_grad
    row["read_bytes"] = _number(Fraction(moved.read * size, units))
    row["written_bytes"] = _number(Fraction(moved.written * size, units))
    row["in_headline"] = included
    return row


def _covered(count: Count) -> dict[str, Any]:
    """Returns how much of the network the count covers if some operators have no rule."""
    dark = {layer for layer, _ in count.unknown}
    known = [layer for layer in count.layers if layer.name not in dark]
    return {
        "layers_counted": len(known),
        "layers_with_unknown": len(dark),
        "params_share": sum(layer.params for layer in known) / count.params if count.params else 1.0,
    }


def _mixture(of: Mixture, request: Request, count: Count, units: int) -> dict[str, Any]:
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


def _lower_bound(
    request: Request, count: Count, device: Device, rows: list[dict[str, Any]], update: int
) -> dict[str, Any]:
    """Returns the least time of a step on `device`, pass by pass; adds to each row what bounds its layer."""
    precision, total = request.settings.dtype, 0.0
    for layer, row in zip(count.layers, rows, strict=True):
        bound = roofline.joined(roofline.bound(of(layer), device, precision) for of in PASSES.values())
        row |= {"bound_s": bound.seconds, "bound_by": bound.by, "flops_per_byte": bound.intensity}
        total += bound.seconds
    result: dict[str, Any] = {
        "device": device.name,
        "device_source": device.source,
        "peak_flops_per_s": device.flops[precision],
        "bytes_per_s": device.bytes_per_s,
        "passes_s": total,
    }
    if request.settings.mode == "training":
        moved = optimizer_elements(count, request.settings.optimizer) * 4  # kept in fp32
        result["optimizer_s"] = max(
            update / device.flops.get("fp32", float("inf")), moved / device.bytes_per_s
        )
        total += result["optimizer_s"]
    flops = 2 * (count.forward.macs + count.backward.macs)
    result |= {"step_s": total, "step_flops": flops}
    if request.settings.measured_step_s:
        mfu, share = roofline.utilisation(flops, total, request.settings.measured_step_s, device, precision)
        result |= {
            "measured_step_s": request.settings.measured_step_s,
            "mfu": mfu,
            "roofline_share": share,
        }
    return result
