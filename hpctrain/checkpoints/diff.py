"""Two training states side by side: which tensors and facts differ, and by how much.

Takes two snapshots; returns a `Comparison`. No side effects.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hpctrain.checkpoints.saver import Snapshot

# Facts that may differ between two bit-identical states.
CIRCUMSTANCES = {"attempt", "progress.elapsed_s", "progress.window.seconds"}
TIMES_OF_PARTS = "progress.window.parts_s."


@dataclass(frozen=True)
class Difference:
    """A tensor or a fact that differs. `largest`: max |a − b|, divided by the largest |a| or |b| of the tensor."""

    name: str
    text: str
    largest: float | None = None


@dataclass(frozen=True)
class Comparison:
    """What two training states share, and what differs."""

    equal_tensors: int
    differences: list[Difference]
    facts: list[Difference]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not self.differences and not self.facts

    def as_json(self) -> dict[str, object]:
        """Returns the fields and `same`, for JSON."""
        return dataclasses.asdict(self) | {"same": self.same}

    def __str__(self) -> str:
        lines = [f"{d.name}: {d.text}" for d in [*self.facts, *self.differences]]
        verdict = "the same, bit for bit" if self.same else f"{len(self.differences)} tensors differ"
        return "\n".join([*lines, f"{self.equal_tensors} tensors are equal; {verdict}"])


def compare(a: Snapshot, b: Snapshot, tick: Callable[[int], None] = lambda size: None) -> Comparison:
    """Returns the differences of two snapshots. `tick` is called with the bytes of each tensor that both have."""
    equal, differences = 0, []
    for name in sorted(a.tensors.keys() | b.tensors.keys()):
        one, other = a.tensors.get(name), b.tensors.get(name)
        if one is None or other is None:
            differences.append(Difference(name, f"only in the {'second' if one is None else 'first'}"))
            continue
        difference = _difference(name, one, other)
        if difference is None:
            equal += 1
        else:
            differences.append(difference)
        tick(one.nbytes)
    first, second = _flat(a.meta), _flat(b.meta)
    facts = [
        Difference(key, f"{first.get(key)} and {second.get(key)}")
        for key in sorted(first.keys() | second.keys())
        if first.get(key) != second.get(key)
        and key not in CIRCUMSTANCES
        and not key.startswith(TIMES_OF_PARTS)
    ]
    return Comparison(equal, differences, facts)


def _difference(name: str, a: Tensor, b: Tensor) -> Difference | None:
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return Difference(name, f"{tuple(a.shape)} {a.dtype} and {tuple(b.shape)} {b.dtype}")
    if torch.equal(_bits(a), _bits(b)):
        return None
    if not (a.is_floating_point() or a.is_complex()):
        return Difference(name, f"{int((a != b).sum())} of {a.numel()} elements differ")
    wide = torch.complex128 if a.is_complex() else torch.float64
    x, y = a.to(wide), b.to(wide)
    scale = max(float(x.abs().max()), float(y.abs().max()))
    largest = float((x - y).abs().max()) / scale if scale else 0.0
    count = int((_bits(a) != _bits(b)).sum())
    return Difference(
        name, f"{count} of {a.numel()} elements differ, by {largest:.3g} of the largest", largest
    )


def _bits(tensor: Tensor) -> Tensor:
    """Returns the same bytes (...,) as integers, so that NaN equals NaN and 0 differs from −0."""
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.contiguous().view(kinds[tensor.element_size()])


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
