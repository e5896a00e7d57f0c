"""Gradient exchange: sums gradients over ranks while the backward pass still runs.

Takes parameters and a `Comm`. Gradients live in flat buckets, in the order in which the backward pass makes
them ready (last layer first; buckets.py says which share one); `p.grad` is a view of its bucket with the
parameter's own strides, so nothing is copied and channels_last stays as it is. When the last gradient of a
bucket is there, one in-place allreduce starts on it. A few more numbers of the caller's (loss, counts, flags)
ride at the end of the last bucket for nothing. Scaling is the caller's: losses divided by the global batch make
the sum the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from hpctrain.config.settings import CommConfig
from hpctrain.training import buckets
from hpctrain.training.comm import Comm


@dataclass
class Bucket:
    """One flat buffer; `missing` counts the gradients that the running backward pass still owes it."""

    name: str
    flat: Tensor
    parameters: list[nn.Parameter]
    missing: int = 0
    handles: list[Any] = field(default_factory=list)
    started: bool = False
    wire: Tensor | None = field(default=None, repr=False)


class GradientExchange:
    """Owns every `p.grad` of `parameters`; do not call `zero_grad` on them."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        comm: Comm,
        *,
        bucket_mb: float = 25.0,
        extras: int = 0,
        half: bool = False,
        adasum: bool = False,
    ) -> None:
        """`extras`: float32 numbers summed beside the gradients. `half`: fp16 on the wire.

        `adasum`: of each parameter's gradients, one number a rank, the Adasum times the ranks: where all agree
        that is their sum as well.
        """
        self._comm, self._half, self._adasum = comm, half, adasum
        self._armed = False
        self.buckets: list[Bucket] = []
        owned = [p for p in parameters if p.requires_grad]
        groups = _group(list(reversed(owned)), round(bucket_mb * 2**20))
        for number, group in enumerate(groups):
            tail = extras if number == len(groups) - 1 else 0
            self.buckets.append(_make_bucket(f"bucket.{number}", group, tail))
        last = self.buckets[-1].flat
        self.extras = last[-extras:] if extras else torch.zeros(0)
        self._gradients = [b.flat for b in self.buckets[:-1]] + [last[: last.numel() - extras]]
        for bucket in self.buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(self._hook(bucket))

    def begin(self) -> None:
        """Zero all gradients and extras: a new step."""
        for bucket in self.buckets:
            bucket.flat.zero_()
            bucket.started = False
            bucket.handles = []

    def arm(self) -> None:
        """The next backward pass is the step's last: sum each bucket as soon as it is whole.

        The extras must be set before it.
        """
        self._armed = self._comm.size > 1
        for bucket in self.buckets:
            bucket.missing = len(bucket.parameters)

    def finish(self) -> None:
        """Wait for all sums. Starts those that no backward pass completed (unused layers, no samples)."""
        if self._comm.size > 1:
            for bucket in self.buckets:
                if not bucket.started:
                    self._start(bucket)
            for bucket in self.buckets:
                for handle in bucket.handles:
                    self._comm.finish_sum(handle)
                if bucket.wire is not None:
                    bucket.flat.copy_(bucket.wire)
            if self._adasum:
                for flat in self._gradients:
                    flat.mul_(self._comm.size)
        self._armed = False

    def norm(self) -> Tensor:
        """The global L2 norm of the gradient, a scalar tensor; the extras left out."""
        norms: list[Tensor] = [torch.linalg.vector_norm(flat) for flat in self._gradients]
        if len(norms) > 1:
            norms = [torch.linalg.vector_norm(torch.stack(norms))]
        return norms[0]

    def scale(self, factor: Tensor) -> None:
        """Multiply every gradient by a scalar tensor (clipping)."""
        for flat in self._gradients:
            flat.mul_(factor)

    def _hook(self, bucket: Bucket) -> Any:
        def ready(_: Tensor) -> None:
            if self._armed:
                bucket.missing -= 1
                if bucket.missing == 0:
                    self._start(bucket)

        return ready

    def _start(self, bucket: Bucket) -> None:
        bucket.started = True
        tensor = bucket.flat
        if self._half:
            if bucket.wire is None:
                bucket.wire = torch.empty_like(bucket.flat, dtype=torch.float16)
            tensor = bucket.wire.copy_(bucket.flat)
        if self._adasum:
            bucket.handles = self._start_adasum(bucket, tensor)
        else:
            bucket.handles = [self._comm.start_sum(tensor, bucket.name)]

    def _start_adasum(self, bucket: Bucket, tensor: Tensor) -> list[Any]:
        """Layer by layer, as Adasum is defined; the extras are summed."""
        sizes = [p.numel() for p in bucket.parameters]
        *parts, rest = tensor.split([*sizes, tensor.numel() - sum(sizes)])
        handles = [self._comm.start_adasum(part, f"{bucket.name}.{i}") for i, part in enumerate(parts)]
        return [*handles, self._comm.start_sum(rest, f"{bucket.name}.extras")] if len(rest) else handles


class StockExchange(GradientExchange):
    """Horovod's DistributedOptimizer in the same place: an allreduce a parameter, which Horovod fuses.

    Gradients stay views of the buckets, and contiguous (Horovod takes no others).
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], comm: Comm, optimizer: Any, *, extras: int
    ) -> None:
        """`optimizer`: what comm.distributed_optimizer gave."""
        super().__init__(parameters, comm, extras=extras)
        self._optimizer = optimizer
        # For good, as `finish` is where we synchronise; kept, as its end would be the end of it.
        self._skipping = optimizer.skip_synchronize()
        self._skipping.__enter__()

    def begin(self) -> None:
        super().begin()
        self._optimizer.set_backward_passes_per_step(2**30)  # no traffic until the last pass

    def arm(self) -> None:
        self._optimizer.set_backward_passes_per_step(1)

    def finish(self) -> None:
        self._comm.wait_for(self._optimizer.synchronize)
        if len(self.extras):
            self._comm.sum(self.extras, "extras")


def make_exchange(
    settings: CommConfig, model: nn.Module, optimizer: Any, comm: Comm, extras: int
) -> tuple[GradientExchange, Any]:
    """The exchange that the settings ask for, and the optimiser to go with it."""
    parameters = list(model.parameters())
    if settings.exchange == "distributed_optimizer" and comm.size > 1:
        trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        wrapped = comm.distributed_optimizer(optimizer, trainable)
        return StockExchange(parameters, comm, wrapped, extras=extras), wrapped
    exchange = GradientExchange(
        parameters,
        comm,
        bucket_mb=settings.bucket_mb,
        extras=extras,
        half=settings.compression == "fp16",
        adasum=settings.reduction == "adasum" and comm.size > 1,
    )
    return exchange, optimizer


def _group(parameters: Sequence[nn.Parameter], limit_bytes: int) -> list[list[nn.Parameter]]:
    """Consecutive parameters of one dtype and device, in buckets (buckets.py)."""
    groups: list[list[nn.Parameter]] = []
    for _, alike in groupby(parameters, lambda p: (p.dtype, p.device)):
        groups += buckets.group(list(alike), lambda p: p.numel() * p.element_size(), limit_bytes)
    return groups


def _make_bucket(name: str, parameters: list[nn.Parameter], extras: int) -> Bucket:
    """One zeroed buffer, with each parameter's gradient a view of it."""
    first = parameters[0]
    total = sum(p.numel() for p in parameters)
    flat = torch.zeros(total + extras, dtype=first.dtype, device=first.device)
    offset = 0
    for parameter in parameters:
        # A parameter is dense, so its own strides address its part of the buffer without gaps.
        parameter.grad = torch.as_strided(flat, parameter.size(), parameter.stride(), offset)
        offset += parameter.numel()
    return Bucket(name, flat, parameters)
