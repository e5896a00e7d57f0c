"""Residual networks (He, Zhang, Ren, Sun 2016, "Deep residual learning for image recognition", Table 1).

Takes images (B, C, H, W), returns logits (B, K): B samples, K classes. Parameter names and shapes are
torchvision's, so its published weights load. Convolutions start from He's normal (fan-out), norms from
1 and 0; with `zero_init_residual` each block starts as the identity (Goyal et al. 2017, section 5.1).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from hpctrain.models.settings_image import ResNetSettings


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; their result is added to the input (Figure 5, left)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, version: str) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, inputs, H, W) to (B, width, H/stride, W/stride)."""
        residual = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(residual)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1 to `width`, 3x3, 1x1 to four times `width` (Figure 5, right)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, version: str) -> None:
        super().__init__()
        first, second = (stride, 1) if version == "v1" else (1, stride)
        self.conv1 = _convolution(inputs, width, 1, first)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, 3, second)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _convolution(width, 4 * width, 1)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _shortcut(inputs, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, inputs, H, W) to (B, 4·width, H/stride, W/stride)."""
        residual = torch.relu(self.bn1(self.conv1(x)))
        residual = torch.relu(self.bn2(self.conv2(residual)))
        return torch.relu(self.bn3(self.conv3(residual)) + self.downsample(x))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Returns the shortcut (option B): the identity if the shapes agree, else a strided 1x1 convolution."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(_convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """18, 34, 50, 101 or 152 layers by `settings.blocks`; v1 or v1.5 by `settings.version`."""

    def __init__(self, settings: ResNetSettings) -> None:
        super().__init__()
        channels, width = settings.input_shape[0], settings.width
        if settings.stem == "imagenet":
            self.conv1 = _convolution(channels, width, 7, 2)
            self.maxpool: nn.Module = nn.MaxPool2d(3, 2, padding=1)
        else:
            self.conv1 = _convolution(channels, width, 3)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(width)
        block: type[Bottleneck | BasicBlock] = Bottleneck if settings.bottleneck else BasicBlock
        inputs = width
        for stage, count in enumerate(settings.blocks):
            blocks = nn.Sequential()
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(block(inputs, width << stage, stride, settings.version))
                inputs = (width << stage) * block.expansion
            setattr(self, f"layer{stage + 1}", blocks)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, settings.num_classes)
        self._initialise(settings.zero_init_residual)

    def _initialise(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)
            elif zero_init_residual and isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (B, C, H, W) to logits (B, K)."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return cast(Tensor, self.fc(self.avgpool(x).flatten(1)))
