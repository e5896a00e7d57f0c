"""All gradients of a model in a few flat buffers, in the order in which the backward pass makes them ready.

`p.grad` is a view of its bucket with the parameter's own strides, so nothing is copied and channels_last is kept. The
last bucket has room at its end for a few numbers of the caller (loss, counts, flags).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from hpctrain.training import buckets


@dataclass
class Bucket:
    """One flat buffer (n,), and `views`, the part of each parameter."""

    name: str
    flat: Tensor
    parameters: list[nn.Parameter]
    views: list[Tensor]
    handles: list[Any] = field(default_factory=list)
    started: bool = False
    wire: Tensor | None = field(default=None, repr=False)


class FlatGradients:
    """Owns every `p.grad` of `parameters`; do not call `zero_grad` on them."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        bucket_mb: float = 25.0,
        extras: int = 0,
        apart: bool = False,
    ) -> None:
        """`extras`: how many float32 numbers are stored with the gradients; `apart`: in a bucket of their own."""
        self.buckets: list[Bucket] = []
        owned = [p for p in parameters if p.requires_grad]
        groups = _group(list(reversed(owned)), round(bucket_mb * 2**20))
        coarse = groups[-1][0].dtype not in (torch.float32, torch.float64)
        if extras and (apart or coarse):
            groups.append([])
        for number, group in enumerate(groups):
            tail = extras if number == len(groups) - 1 else 0
            self.buckets.append(_make_bucket(f"bucket.{number}", group, tail, owned[0].device))
        last = self.buckets[-1].flat
        self.extras = last[-extras:] if extras else torch.zeros(0)
        flats = [b.flat for b in self.buckets[:-1]] + [last[: last.numel() - extras]]
        self._gradients = [flat for flat in flats if flat.numel()]

    def begin(self) -> None:
        """A new step: set all gradients and extras to zero."""
        for bucket in self.buckets:
            bucket.flat.zero_()

    def norm(self) -> Tensor:
        """Returns the L2 norm of all gradients, a scalar tensor; the extras do not count."""
        norms: list[Tensor] = [
            torch.linalg.vector_norm(flat, dtype=torch.promote_types(flat.dtype, torch.float32))
            for flat in self._gradients
        ]
        if len(norms) > 1:
            norms = [torch.linalg.vector_norm(torch.stack(norms))]
        return norms[0]

    def scale(self, factor: Tensor | int) -> None:
        """Multiply every gradient by `factor`, a number or a scalar tensor."""
        for flat in self._gradients:
            flat.mul_(factor)


def _group(parameters: Sequence[nn.Parameter], limit_bytes: int) -> list[list[nn.Parameter]]:
    """Consecutive parameters of one dtype and device, in buckets (buckets.py)."""
    groups: list[list[nn.Parameter]] = []
    for _, alike in groupby(parameters, lambda p: (p.dtype, p.device)):
        groups += buckets.group(list(alike), lambda p: p.numel() * p.element_size(), limit_bytes)
    return groups


def _make_bucket(name: str, parameters: list[nn.Parameter], extras: int, device: torch.device) -> Bucket:
    """Makes one zeroed buffer, and makes each parameter's gradient a view of it. It may hold the extras alone."""
    dtype = parameters[0].dtype if parameters else torch.float32
    total = sum(p.numel() for p in parameters)
    flat = torch.zeros(total + extras, dtype=dtype, device=parameters[0].device if parameters else device)
    views, offset = [], 0
    for parameter in parameters:
        # A parameter is dense, so its own strides address its part of the buffer without gaps.
        views.append(torch.as_strided(flat, parameter.size(), parameter.stride(), offset))
        parameter.grad = views[-1]
        offset += parameter.numel()
    return Bucket(name, flat, parameters, views)
