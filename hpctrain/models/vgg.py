"""VGG (Simonyan & Zisserman 2015, "Very deep convolutional networks", Table 1: A, B, D and E).

Takes images (B, C, H, W), returns logits (B, K): B samples, K classes. Parameter names and shapes are
torchvision's, so its published weights load. Convolutions start from He's normal (fan-out), linear
layers from a normal of deviation 0.01, biases from 0.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from hpctrain.models.settings_image import VGGSettings


class VGG(nn.Module):
    """Five stages of 3x3 convolutions, each followed by 2x2 max pooling; three fully connected layers.

    The stages' widths are 1, 2, 4, 8 and 8 times `settings.width`.
    """

    def __init__(self, settings: VGGSettings) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = settings.input_shape[0]
        for count, factor in zip(settings.convolutions, (1, 2, 4, 8, 8), strict=True):
            for _ in range(count):
                layers.append(nn.Conv2d(channels, factor * settings.width, 3, padding=1))
                channels = factor * settings.width
                layers += [nn.BatchNorm2d(channels), nn.ReLU()] if settings.batch_norm else [nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(channels * 7 * 7, settings.hidden),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden, settings.hidden),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden, settings.num_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (B, C, H, W) to logits (B, K)."""
        return cast(Tensor, self.classifier(self.avgpool(self.features(x)).flatten(1)))
