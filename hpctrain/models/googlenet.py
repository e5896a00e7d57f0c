"""GoogLeNet (Szegedy et al. 2015, "Going deeper with convolutions", Table 1).

Takes images (B, C, H, W), returns logits (B, K), or `WithAuxiliary` in training with auxiliary heads: B samples, K
classes. Parameter names are torchvision's; with `variant=torchvision auxiliary=true` the shapes are too, so its
published weights load. Every weight starts from a normal of deviation 0.01, cut off at two deviations, as in
torchvision. The paper's variant starts from He's normal, because it has no batch normalisation and would not train
from such small weights.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from hpctrain.models.outputs import WithAuxiliary
from hpctrain.models.settings_image import GoogLeNetSettings

# Table 1, one row per block: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection.
BLOCKS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class Convolution(nn.Module):
    """A convolution and ReLU; torchvision's variant normalises between them and has no bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=not norm)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, inputs, H, W) to (B, outputs, H', W')."""
        return torch.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    """Four branches side by side, concatenated (Figure 2b)."""

    def __init__(self, inputs: int, widths: tuple[int, ...], *, norm: bool) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, pool = widths
        self.branch1 = Convolution(inputs, one, 1, norm=norm)
        self.branch2 = nn.Sequential(
            Convolution(inputs, reduce3, 1, norm=norm), Convolution(reduce3, three, 3, norm=norm)
        )
        # torchvision's published weights have 3x3 where the paper has 5x5.
        self.branch3 = nn.Sequential(
            Convolution(inputs, reduce5, 1, norm=norm),
            Convolution(reduce5, five, 3 if norm else 5, norm=norm),
        )
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), Convolution(inputs, pool, 1, norm=norm))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, inputs, H, W) to (B, outputs, H, W)."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


class AuxiliaryHead(nn.Module):
    """A classifier on a middle layer, for training only (section 5); models/losses.py weights its loss."""

    def __init__(self, inputs: int, settings: GoogLeNetSettings) -> None:
        super().__init__()
        maps, hidden = _scale(settings, 128), _scale(settings, 1024)
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.conv = Convolution(inputs, maps, 1, norm=settings.variant == "torchvision")
        self.fc1 = nn.Linear(maps * 4 * 4, hidden)
        self.dropout = nn.Dropout(0.7)
        self.fc2 = nn.Linear(hidden, settings.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, inputs, H, W) to logits (B, K)."""
        hidden = torch.relu(self.fc1(self.conv(self.pool(x)).flatten(1)))
        return cast(Tensor, self.fc2(self.dropout(hidden)))


class GoogLeNet(nn.Module):
    """22 layers, nine inception blocks; returns `WithAuxiliary` in training if `settings.auxiliary`."""

    def __init__(self, settings: GoogLeNetSettings) -> None:
        super().__init__()
        norm = settings.variant == "torchvision"
        stem, wide = _scale(settings, 64), _scale(settings, 192)
        self.conv1 = Convolution(settings.input_shape[0], stem, 7, 2, norm=norm)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = Convolution(stem, stem, 1, norm=norm)
        self.conv3 = Convolution(stem, wide, 3, norm=norm)
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.norm1 = nn.Identity() if norm else nn.LocalResponseNorm(5)
        self.norm2 = nn.Identity() if norm else nn.LocalResponseNorm(5)
        channels, outputs = wide, {}
        for name, widths in BLOCKS.items():
            scaled = tuple(_scale(settings, width) for width in widths)
            self.add_module(f"inception{name}", Inception(channels, scaled, norm=norm))
            channels = outputs[name] = scaled[0] + scaled[2] + scaled[4] + scaled[5]
        self.maxpool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
        # For 224x224 images, both windows result in 7x7.
        self.maxpool4 = nn.MaxPool2d(2 if norm else 3, 2, ceil_mode=True)
        self.aux1 = AuxiliaryHead(outputs["4a"], settings) if settings.auxiliary else None
        self.aux2 = AuxiliaryHead(outputs["4d"], settings) if settings.auxiliary else None
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(settings.dropout)
        self.fc = nn.Linear(channels, settings.num_classes)
        self._initialise(norm)

    def _initialise(self, norm: bool) -> None:
        for module in self.modules():
            if not isinstance(module, nn.Conv2d | nn.Linear):
                continue
            if norm:
                nn.init.trunc_normal_(module.weight, std=0.01, a=-0.02, b=0.02)
            else:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor | WithAuxiliary:
        """Maps images (B, C, H, W) to logits (B, K), in training with auxiliary heads to `WithAuxiliary`."""
        x = self.norm1(self.maxpool1(self.conv1(x)))
        x = self.maxpool2(self.norm2(self.conv3(self.conv2(x))))
        auxiliary: list[Tensor] = []
        for name in BLOCKS:
            if name in ("4a", "5a"):
                x = self.maxpool3(x) if name == "4a" else self.maxpool4(x)
            x = self.get_submodule(f"inception{name}")(x)
            head = {"4a": self.aux1, "4d": self.aux2}.get(name)
            if head is not None and self.training:
                auxiliary.append(head(x))
        logits: Tensor = self.fc(self.dropout(self.avgpool(x).flatten(1)))
        return WithAuxiliary(logits, tuple(auxiliary)) if auxiliary else logits


def _scale(settings: GoogLeNetSettings, channels: int) -> int:
    return max(1, round(settings.width * channels))
