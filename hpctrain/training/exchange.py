"""Gradient exchange: sums gradients over ranks while the backward pass still runs.

Takes parameters and a `Comm`. The gradients are in flat buckets (flat_gradients.py; buckets.py says which share one).
The caller may add a few numbers, which are summed at the end of the last bucket at no cost. It also does the scaling:
losses divided by the global batch make the sum the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hpctrain.config.settings import CommConfig
from hpctrain.training.comm import Comm
from hpctrain.training.flat_gradients import Bucket, FlatGradients


class Exchange(Protocol):
    """What a step calls: `begin`, any number of backward passes, `arm`, the last backward pass, `finish`.

    After `finish` all gradients and `extras`, a float32 vector (n,), are sums over all ranks.
    """

    buckets: list[Bucket]
    extras: Tensor

    def begin(self) -> None:
        """A new step: set all gradients and extras to zero."""

    def arm(self) -> None:
        """The next backward pass is the last of the step. The extras must be set before it."""

    def finish(self) -> None:
        """Wait for all sums. Collective."""

    def norm(self) -> Tensor:
        """Returns the L2 norm of all gradients, a scalar tensor."""

    def scale(self, factor: Tensor) -> None:
        """Multiply every gradient by `factor`, a scalar tensor."""


class GradientExchange(FlatGradients):
    """Does one allreduce per bucket, in place, as soon as the last gradient of the bucket is ready."""

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
        """`extras`: how many float32 numbers are summed with the gradients. `half`: float16 on the wire.

        `adasum`: each parameter gets the Adasum of its gradients times the number of ranks, which is their sum if all
        ranks have the same gradients.
        """
        super().__init__(parameters, bucket_mb=bucket_mb, extras=extras)
        self._comm, self._half, self._adasum = comm, half, adasum
        self._armed = False
        for bucket in self.buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(self._hook(bucket))

    def begin(self) -> None:
        """A new step: set all gradients and extras to zero."""
        super().begin()
        for bucket in self.buckets:
            bucket.started = False
            bucket.handles = []

    def arm(self) -> None:
        """The next backward pass is the last of the step: sum each bucket as soon as it is complete.

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
                self.scale(self._comm.size)
        self._armed = False

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
        """Starts an Adasum per layer, as Adasum is defined, and a sum of the extras; returns the handles."""
        sizes = [p.numel() for p in bucket.parameters]
        *parts, rest = tensor.split([*sizes, tensor.numel() - sum(sizes)])
        handles = [self._comm.start_adasum(part, f"{bucket.name}.{i}") for i, part in enumerate(parts)]
        return [*handles, self._comm.start_sum(rest, f"{bucket.name}.extras")] if len(rest) else handles


class StockExchange(FlatGradients):
    """Horovod's DistributedOptimizer, for comparisons: one allreduce per parameter, which Horovod fuses.

    Gradients are contiguous, because Horovod does not take others.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], comm: Comm, optimizer: Any, *, extras: int
    ) -> None:
        """`optimizer` is what comm.distributed_optimizer returned."""
        super().__init__(parameters, extras=extras)
        self._comm, self._optimizer = comm, optimizer
        # Skips for good, because `finish` synchronises. The context is kept in a field: its end would end the skipping.
        self._skipping = optimizer.skip_synchronize()
        self._skipping.__enter__()

    def begin(self) -> None:
        """A new step: set all gradients and extras to zero."""
        super().begin()
        self._optimizer.set_backward_passes_per_step(2**30)  # no traffic until the last pass

    def arm(self) -> None:
        """The next backward pass is the last of the step."""
        self._optimizer.set_backward_passes_per_step(1)

    def finish(self) -> None:
        """Wait for Horovod's sums, then sum the extras. Collective."""
        self._comm.wait_for(self._optimizer.synchronize)
        if len(self.extras):
            self._comm.sum(self.extras, "extras")


def make_exchange(
    settings: CommConfig, model: nn.Module, optimizer: Any, comm: Comm, extras: int
) -> tuple[Exchange, Any]:
    """Returns the exchange that the settings ask for, and the optimiser to use with it."""
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
