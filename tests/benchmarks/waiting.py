"""A network for ranks that outnumber the cores: real layers, gradients and messages, computing time that is waited out.

    model=custom model.target=waiting:Waiting +model.convolutions=[32,64] +model.dense=[512] +model.sample_ms=1.5

Each layer computes on the CPU, in little time, and then waits as long as an accelerator would need for it:
`sample_ms` a sample for the forward pass and twice that for the backward pass, divided among the layers by their
multiply-adds. A waiting rank leaves its core to the others, as a host does while its GPU computes. Input: 1×32×32.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

SIDE = 32


class Waiting(nn.Module):
    """Convolutions of 3×3 and stride 2, a mean over what is left of the picture, dense layers, 10 classes."""

    def __init__(self, convolutions: Sequence[int] = (), dense: Sequence[int] = (), sample_ms: float = 1.0):
        super().__init__()
        layers: list[nn.Module] = []
        macs: list[float] = []
        channels, side = 1, SIDE
        for width in convolutions:
            layers.append(nn.Sequential(nn.Conv2d(channels, width, 3, 2, 1), nn.ReLU()))
            channels, side = width, side // 2
            macs.append(9 * layers[-1][0].in_channels * width * side**2)  # type: ignore[index, union-attr, operator]
        flat = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()) if convolutions else nn.Flatten()
        self.flat, width = flat, channels if convolutions else SIDE**2
        self.convolutions = len(layers)
        for units in (*dense, 10):
            last = units == 10
            layers.append(
                nn.Linear(width, units) if last else nn.Sequential(nn.Linear(width, units), nn.ReLU())
            )
            macs.append(width * units)
            width = units
        self.layers = nn.ModuleList(layers)
        self.wait_s = [1e-3 * sample_ms * m / sum(macs) for m in macs]

    def forward(self, x: Tensor) -> Tensor:
        for number, (layer, wait_s) in enumerate(zip(self.layers, self.wait_s, strict=True)):
            x = _Wait.apply(layer(self.flat(x) if number == self.convolutions else x), wait_s * len(x))
        return x


class _Wait(torch.autograd.Function):
    """The identity, that takes its time; twice as much in the backward pass, before the layer's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, wait_s: float) -> Tensor:
        ctx.wait_s = wait_s
        if not x.is_meta:  # the operations are only counted
            time.sleep(wait_s)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        if not gradients[0].is_meta:
            time.sleep(2 * ctx.wait_s)
        return gradients[0], None
