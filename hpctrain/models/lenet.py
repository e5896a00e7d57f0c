"""LeNet-5 (LeCun, Bottou, Bengio, Haffner 1998, "Gradient-based learning applied to document recognition").

Takes images (B, C, H, W), 1x32x32 in the paper; returns one score per class (B, K). Layer names are the
paper's: C is a convolution, S a subsampling, F a full connection.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hpctrain.models.perceptron import glorot
from hpctrain.models.settings_image import LeNetSettings, size_after

# Table I of the paper: for each of the 16 maps of C3, the numbers of the S2 maps that it sees.
C3_INPUTS = (
    *([(i + j) % 6 for j in range(3)] for i in range(6)),
    *([(i + j) % 6 for j in range(4)] for i in range(6)),
    *([i, i + 1, (i + 3) % 6, (i + 4) % 6] for i in range(3)),
    [*range(6)],
)


def lenet(settings: LeNetSettings) -> nn.Module:
    """Returns the network of `settings.variant`."""
    return LeNet(settings) if settings.variant == "modern" else LeNet1998(settings)


def _features(settings: LeNetSettings) -> int:
    """Returns the number of units of C5: 120 for the paper's 32x32 image."""
    height, width = (size_after(size, settings.windows()) for size in settings.input_shape[1:])
    return 120 * height * width


class LeNet(nn.Module):
    """The modern form: dense C3, mean pooling without parameters, tanh, a linear output layer.

    Weights start as in Glorot & Bengio 2010, biases at zero.
    """

    def __init__(self, settings: LeNetSettings) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(settings.input_shape[0], 6, 5, padding=settings.padding)
        self.s2 = nn.AvgPool2d(2)
        self.c3 = nn.Conv2d(6, 16, 5)
        self.s4 = nn.AvgPool2d(2)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(_features(settings), 84)
        self.output = nn.Linear(84, settings.num_classes)
        glorot(self)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (B, C, H, W) to scores (B, K)."""
        x = self.s2(torch.tanh(self.c1(x)))
        x = self.s4(torch.tanh(self.c3(x)))
        x = torch.tanh(self.c5(x)).flatten(1)
        return cast(Tensor, self.output(torch.tanh(self.f6(x))))


class Subsampling(nn.Module):
    """The sum of 2x2 units, times a trainable coefficient per map, plus a bias per map (S2, S4)."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(maps))
        self.bias = nn.Parameter(torch.empty(maps))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, maps, H, W) to (B, maps, H/2, W/2)."""
        total = F.avg_pool2d(x, 2, divisor_override=1)
        return total * self.weight[:, None, None] + self.bias[:, None, None]


class SparseConvolution(nn.Module):
    """C3: each map sees 3, 4 or all 6 maps of S2 (`C3_INPUTS`), as three grouped convolutions."""

    inputs: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.three = nn.Conv2d(6 * 3, 6, 5, groups=6)
        self.four = nn.Conv2d(9 * 4, 9, 5, groups=9)
        self.six = nn.Conv2d(6, 1, 5)
        order = torch.tensor([source for sources in C3_INPUTS[:15] for source in sources])
        self.register_buffer("inputs", order, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, 6, H, W) to (B, 16, H-4, W-4)."""
        gathered = x[:, self.inputs]
        return torch.cat([self.three(gathered[:, :18]), self.four(gathered[:, 18:]), self.six(x)], dim=1)


class RadialBasis(nn.Module):
    """Squared distances to one fixed code of ±1 per class, negated: the nearest class scores highest.

    The paper draws the codes as 7x12 bitmaps of the digits; here they are rows of a Walsh matrix, which
    lie equally far apart and exist for up to 128 classes.
    """

    codes: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        codes = [[1.0 - 2.0 * ((k & j).bit_count() % 2) for j in range(84)] for k in range(num_classes)]
        self.register_buffer("codes", torch.tensor(codes), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, 84) to scores (B, K)."""
        return -(x[:, None, :] - self.codes).square().sum(-1)


class LeNet1998(nn.Module):
    """The network of 1998: 60,000 trainable parameters and 340,908 connections.

    Squashing is 1.7159 tanh(2a/3); weights are uniform in ±2.4/fan-in (appendix A), biases too.
    """

    def __init__(self, settings: LeNetSettings) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(settings.input_shape[0], 6, 5, padding=settings.padding)
        self.s2 = Subsampling(6)
        self.c3 = SparseConvolution()
        self.s4 = Subsampling(16)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(_features(settings), 84)
        self.output = RadialBasis(settings.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | Subsampling):
                fan_in = 4 if isinstance(module, Subsampling) else module.weight[0].numel()
                for parameter in module.parameters():
                    nn.init.uniform_(parameter, -2.4 / fan_in, 2.4 / fan_in)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (B, C, H, W) to scores (B, K)."""
        x = squash(self.s2(squash(self.c1(x))))
        x = squash(self.s4(squash(self.c3(x))))
        x = squash(self.c5(x)).flatten(1)
        return cast(Tensor, self.output(squash(self.f6(x))))


def squash(x: Tensor) -> Tensor:
    """Returns the paper's scaled tanh of x of any shape (...,)."""
    return 1.7159 * torch.tanh(2 / 3 * x)
