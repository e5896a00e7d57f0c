"""The result of a count as plain data: the work of each layer, and its form as JSON. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, replace
from typing import Any

from hpctrain.flops.rules import Cost, Work

LOSS = "(loss)"


@dataclass(frozen=True)
class Layer:
    """A layer's work over all its calls; `params` counts its own parameters, shared ones once."""

    name: str
    type: str
    params: int
    work: tuple[Work, ...]

    @property
    def forward(self) -> Cost:
        """The forward pass of all calls."""
        return sum((w.forward for w in self.work), Cost())

    @property
    def weight_grad(self) -> Cost:
        """The weights' gradients of all calls."""
        return sum((w.weight_grad for w in self.work), Cost())

    @property
    def input_grad(self) -> Cost:
        """The inputs' gradients of all calls."""
        return sum((w.input_grad for w in self.work), Cost())


@dataclass(frozen=True)
class Count:
    """The work of one training step, by layer in order of first use. It excludes `unknown` operators."""

    layers: tuple[Layer, ...]
    params: int
    recomputed_macs: int = 0
    recomputed_other: int = 0
    unknown: Mapping[tuple[str, str], int] = field(default_factory=dict)
    parameter_sizes: tuple[tuple[int, int], ...] = ()  # (elements, dimensions) of those trained

    @property
    def forward(self) -> Cost:
        """The forward pass of all layers."""
        return sum((layer.forward for layer in self.layers), Cost())

    @property
    def backward(self) -> Cost:
        """The backward pass of all layers."""
        return sum((layer.weight_grad + layer.input_grad for layer in self.layers), Cost())


def forward_only(count: Count) -> Count:
    """Returns the count without its backward pass, as for inference."""
    layers = tuple(
        replace(layer, work=tuple(Work(w.kind, w.forward) for w in layer.work)) for layer in count.layers
    )
    return replace(count, layers=layers, recomputed_macs=0, recomputed_other=0)


def to_plain(count: Count) -> dict[str, Any]:
    """Returns JSON-able values. Equal calls of a layer are written once, with how often they occur."""
    return {
        "layers": [
            [layer.name, layer.type, layer.params, [_plain(w, n) for w, n in Counter(layer.work).items()]]
            for layer in count.layers
        ],
        "params": count.params,
        "recomputed": [count.recomputed_macs, count.recomputed_other],
        "unknown": [[*where, times] for where, times in count.unknown.items()],
        "parameter_sizes": [[*size, n] for size, n in Counter(count.parameter_sizes).items()],
    }


def from_plain(values: Mapping[str, Any]) -> Count:
    """Returns the count that `to_plain` wrote; equal calls and equal parameters are then adjacent."""
    layers = tuple(
        Layer(name, kind, params, tuple(w for work in works for w in _work(*work)))
        for name, kind, params, works in values["layers"]
    )
    macs, other = values["recomputed"]
    return Count(
        layers,
        values["params"],
        macs,
        other,
        {(layer, operator): times for layer, operator, times in values["unknown"]},
        tuple((size, dims) for size, dims, n in values["parameter_sizes"] for _ in range(n)),
    )


def _plain(work: Work, times: int) -> list[Any]:
    return [times, work.kind, *(_trimmed(cost) for cost in (work.forward, work.weight_grad, work.input_grad))]


def _trimmed(cost: Cost) -> list[int]:
    figures = list(astuple(cost))
    while figures and not figures[-1]:
        figures.pop()
    return figures


def _work(times: int, kind: Any, *costs: list[int]) -> tuple[Work, ...]:
    return (Work(kind, *(Cost(*figures) for figures in costs)),) * times
