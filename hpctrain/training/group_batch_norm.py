"""Batch norm over the samples of several ranks: `comm.batch_norm_ranks` neighbours share mean and variance.

If the batch of a rank is small its statistics are noise, and the result of a run depends on its number of ranks. Over
all ranks they are the statistics of one large batch (Ying et al. 2018, arXiv:1811.06992, section 4.3). Each layer does
two small sums per step over the group's process set, and the passes wait for them. Validation uses running statistics,
as without groups.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hpctrain.training.comm import Comm


@dataclass
class Group:
    """What the layers share. `together` says whether every rank of the group is in the same pass now."""

    comm: Comm = field(default_factory=Comm)
    together: bool = False


class GroupBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Replaces `norm`, with its parameters and buffers. `name` is the same on all ranks."""

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm, group: Group, name: str) -> None:
        nn.Module.__init__(self)
        self.__dict__ |= norm.__dict__
        self._group, self._name = group, name

    def _check_input_dim(self, x: Tensor) -> None:
        """No check: the layer this one replaces has already validated the input rank."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns the normalised `x`, (B, C, ...) like the input. Collective in training if `together`."""
        if not (self.training and self._group.together):
            return super().forward(x)
        normed, mean, variance, count = _Normalise.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.bias, self.eps, self._group.comm, self._name
        )
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            factor = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
            self.running_mean.lerp_(mean, factor)
            self.running_var.lerp_(variance * (count / (count - 1)), factor)
        return normed  # type: ignore[no-any-return]


class _Normalise(torch.autograd.Function):
    """y = γ (x − μ) / √(σ² + ε) + β with μ and σ² of the group's samples (Ioffe, Szegedy 2015, algorithm 1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Any, bias: Any, eps: float, comm: Comm, name: str) -> Any:
        others = [d for d in range(x.dim()) if d != 1]
        own = x.numel() // x.size(1)
        wide = x.float()
        mean = wide.sum(others) / own
        spread = (wide - _as_channels(mean, x)).square_().sum(others)
        # Σx and Σx² of the group, from the mean and Σ(x − mean)² of each rank; float64 because they nearly cancel.
        first = own * mean.double()
        sums = torch.cat([first, spread.double() + first * mean, first.new_tensor([own])])
        comm.sum_in_group(sums, f"{name}.forward")
        count = sums[-1]
        exact = sums[: x.size(1)] / count
        variance = (sums[x.size(1) : -1] / count - exact.square()).clamp_(min=0).float()
        mean, count = exact.float(), count.float()
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.rest = eps, comm, name
        ctx.mark_non_differentiable(mean, variance, count)
        normed = functional.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)
        return normed, mean, variance, count

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Any) -> Any:
        x, weight, mean, variance, count = ctx.saved_tensors
        eps, comm, name = ctx.rest
        scale = (variance + eps).rsqrt()
        # With μ and σ² fixed this is the library's own kernel. Its last two results are Σ dy x̂ and Σ dy of this rank.
        ones = weight if weight is not None else torch.ones_like(mean)
        dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            dy, x, ones, mean, variance, mean, scale, False, eps, [True, True, True]
        )
        sums = torch.cat([dweight, dbias]).float()
        comm.sum_in_group(sums, f"{name}.backward")
        along, across = (sums / count).chunk(2)
        # dx −= γ/σ (Σ dy x̂ · x̂ + Σ dy) / n, which is linear in x.
        slope = -ones * scale * scale * along
        offset = -ones * scale * across - slope * mean
        through = x.to(torch.float32, copy=True).mul_(_as_channels(slope, x)).add_(_as_channels(offset, x))
        if weight is None:
            dweight = dbias = None
        return through.add_(dx).to(x.dtype), dweight, dbias, None, None, None


def _as_channels(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.dim() - 2))


def share_norms(model: nn.Module, comm: Comm) -> tuple[Group, int]:
    """Put every batch norm of `model` into one group, in place. Returns the group and the number of layers."""
    group, count = Group(comm), 0
    for name, parent in list(model.named_modules()):
        for key, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                setattr(parent, key, GroupBatchNorm(child, group, f"norm.{name}.{key}"))
                count += 1
    return group, count
