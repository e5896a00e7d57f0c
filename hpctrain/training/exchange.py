"""Gradient exchange: sums gradients over ranks while the backward pass still runs.

Takes parameters and a `Comm`. The gradients are in flat buckets (flat_gradients.py; buckets.py says which share one).
The caller may add a few numbers, which are summed at the end of the last bucket at no cost. It also does the scaling:
losses divided by the global batch make the sum the mean. arrivals.py knows when a bucket is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hpctrain.config.settings import CommConfig
from hpctrain.errors import RunFailed, listing
from hpctrain.storage.run_state import Reason
from hpctrain.training.arrivals import Arrivals
from hpctrain.training.comm import Comm
from hpctrain.training.flat_gradients import Bucket, FlatGradients

NAMED = 4  # parameters in a message


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

    def leave_out_unused(self) -> None:
        """Until the next step, parameters without a gradient on any rank have `grad` None, as in plain PyTorch."""


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
        overlap: bool = True,
        names: Mapping[nn.Parameter, str] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        """`extras`: how many float32 numbers are summed with the gradients. `half`: float16 on the wire.

        `adasum`: each parameter gets the Adasum of its gradients times the number of ranks, which is their sum if all
        ranks have the same gradients. `overlap`: while the backward pass runs; else all sums begin after it. `names`
        are for messages, and `say` takes those that are not errors.
        """
        count = sum(parameter.requires_grad for parameter in parameters)
        super().__init__(parameters, bucket_mb=bucket_mb, extras=extras + count, apart=half)
        # In how many ranks each parameter got a gradient, in the order of the buckets.
        self.extras, self._used = self.extras.split([extras, count])
        self._left_out: list[tuple[nn.Parameter, Tensor]] = []
        self._comm, self._half, self._adasum, self._overlap = comm, half, adasum, overlap
        self._names, self._say = names or {}, say
        self._armed = False
        self._arrivals = [Arrivals(len(bucket.parameters)) for bucket in self.buckets]
        self._said: set[str] = set()
        for bucket, arrivals in zip(self.buckets, self._arrivals, strict=True):
            for place, parameter in enumerate(bucket.parameters):
                parameter.register_post_accumulate_grad_hook(self._hook(bucket, arrivals, place))

    def begin(self) -> None:
        """A new step: set all gradients and extras to zero."""
        for parameter, view in self._left_out:
            parameter.grad = view
        self._left_out = []
        super().begin()
        for bucket, arrivals in zip(self.buckets, self._arrivals, strict=True):
            bucket.started = False
            bucket.handles = []
            arrivals.begin()

    def arm(self) -> None:
        """The next backward pass is the last of the step: sum each bucket as soon as it is complete.

        The extras must be set before it.
        """
        self._armed = self._comm.size > 1
        for arrivals in self._arrivals:
            arrivals.arm()

    def finish(self) -> None:
        """Wait for all sums. Starts those that no backward pass completed (unused layers, no samples).

        Raises RunFailed if a gradient came after the sum of its bucket had begun, which has spoilt the sum.
        """
        if self._comm.size > 1:
            if late := self._of(Arrivals.late):
                raise RunFailed(
                    Reason.LATE_GRADIENT,
                    f"{listing(late, NAMED)}: got another gradient in a backward pass after their sum over ranks had "
                    "begun, as blocks do that are recomputed a varying number of times; comm.overlap=false sums after "
                    "the pass",
                )
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
            if self._armed:
                self._learn()
        self._armed = False

    def leave_out_unused(self) -> None:
        """Until the next step, parameters without a gradient on any rank have `grad` None, as in plain PyTorch.

        So an optimiser neither decays them nor moves them by their momentum. The sums have ended.
        """
        seen = self._seen()
        if all(seen):  # here, so the host need not wait for a GPU's sums
            return
        if self._comm.size == 1:
            self._note_used()
        places = [(bucket, place) for bucket in self.buckets for place in range(len(bucket.parameters))]
        for (bucket, place), ranks in zip(places, self._used.tolist(), strict=True):
            if not ranks:
                self._left_out.append((bucket.parameters[place], bucket.views[place]))
                bucket.parameters[place].grad = None
        if self._left_out and any(seen):
            names = [self._names.get(parameter, "a parameter") for parameter, _ in self._left_out]
            self._say_once(
                "without a gradient on any rank in a step; the update leaves such parameters alone", names
            )

    def _seen(self) -> list[bool]:
        """Returns whether each parameter got a gradient on this rank, in the order of the buckets."""
        return [came for arrivals in self._arrivals for came in arrivals.seen]

    def _note_used(self) -> None:
        seen = self._seen()
        if all(seen):
            self._used.fill_(1)
        else:
            self._used.copy_(torch.tensor(seen))

    def _learn(self) -> None:
        """The armed pass has ended: note what came once, and say once what came more often."""
        for arrivals in self._arrivals:
            arrivals.end()
        if repeated := self._of(Arrivals.repeated):
            self._say_once(
                "more than one gradient in a backward pass (blocks that are recomputed, or used inside of another "
                "backward pass); their buckets are summed over ranks after the pass", repeated,
            )  # fmt: skip

    def _say_once(self, what: str, names: Sequence[str]) -> None:
        if what not in self._said:
            self._said.add(what)
            self._say(f"{listing(names, NAMED)}: {what}")

    def _of(self, places: Callable[[Arrivals], list[int]]) -> list[str]:
        """Returns the names of the parameters at `places` of the buckets."""
        return [
            self._names.get(bucket.parameters[place], f"{bucket.name}[{place}]")
            for bucket, arrivals in zip(self.buckets, self._arrivals, strict=True)
            for place in places(arrivals)
        ]

    def _hook(self, bucket: Bucket, arrivals: Arrivals, place: int) -> Callable[[Tensor], None]:
        def ready(parameter: Tensor) -> None:
            view = bucket.views[place]
            if parameter.grad is not view:  # autograd has replaced it, as it does if create_graph is set
                view.copy_(parameter.grad.detach())  # type: ignore[union-attr]
                parameter.grad = view
            arrivals.seen[place] = True
            if self._armed:
                arrivals.arrived(place, started=bucket.started)
                if self._overlap and arrivals.complete and not bucket.started:
                    self._start_complete(bucket)

        return ready

    def _start_complete(self, bucket: Bucket) -> None:
        """Starts a bucket that is complete; the last one, which says what came in all of them, after the others."""
        last = self.buckets[-1]
        if bucket is not last:
            self._start(bucket)
        if self._arrivals[-1].complete and all(other.started for other in self.buckets[:-1]):
            self._start(last)

    def _start(self, bucket: Bucket) -> None:
        bucket.started = True
        tensor = bucket.flat
        if bucket is self.buckets[-1]:
            self._note_used()
        if self._half and bucket.parameters:
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

    def leave_out_unused(self) -> None:
        """Leaves out nothing: Horovod's own optimiser gives every parameter a gradient."""


def make_exchange(
    settings: CommConfig,
    model: nn.Module,
    optimizer: Any,
    comm: Comm,
    extras: int,
    say: Callable[[str], None] = print,
) -> tuple[Exchange, Any]:
    """Returns the exchange that the settings ask for, and the optimiser to use with it. `say`: as its own."""
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
        overlap=settings.overlap,
        names={parameter: name for name, parameter in model.named_parameters()},
        say=say,
    )
    return exchange, optimizer
