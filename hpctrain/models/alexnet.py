"""AlexNet: the single tower of Krizhevsky 2014, and the two-GPU network of Krizhevsky et al. 2012.

Takes images (B, C, H, W), returns logits (B, K): B samples, K classes. The single tower's parameter names
and shapes are torchvision's, so its published weights load. The single tower starts from torch's own
initialisation; the 2012 network from normal weights of deviation 0.01, with biases 1 in the layers that section 5
of the paper names and 0 in the others.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from hpctrain.models.settings_image import AlexNetSettings, size_after


class AlexNet(nn.Module):
    """Five convolutions, three fully connected layers.

    The 2012 form adds local response normalisation (section 3.3). If grouped, each half of the second, fourth and
    fifth convolutions sees only the maps of its own GPU (Figure 2).
    """

    def __init__(self, settings: AlexNetSettings) -> None:
        super().__init__()
        single = settings.variant == "single_tower"
        groups = 2 if settings.variant == "grouped" else 1
        one, two, three, four, five = settings.widths()
        norm = [] if single else [nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)]
        self.features = nn.Sequential(
            nn.Conv2d(settings.input_shape[0], one, 11, 4, padding=2 if single else 0),
            nn.ReLU(),
            *norm,
            nn.MaxPool2d(3, 2),
            nn.Conv2d(one, two, 5, padding=2, groups=groups),
            nn.ReLU(),
            *norm,
            nn.MaxPool2d(3, 2),
            nn.Conv2d(two, three, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(three, four, 3, padding=1, groups=groups),
            nn.ReLU(),
            nn.Conv2d(four, five, 3, padding=1, groups=groups),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
        height, width = (size_after(size, settings.windows()) for size in settings.input_shape[1:])
        if single:
            height = width = 6
        self.avgpool = nn.AdaptiveAvgPool2d(6) if single else nn.Identity()
        self.classifier = nn.Sequential(
            nn.Dropout(settings.dropout),
            nn.Linear(five * height * width, settings.hidden),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden, settings.hidden),
            nn.ReLU(),
            nn.Linear(settings.hidden, settings.num_classes),
        )
        if not single:
            self._initialise_2012()

    def _initialise_2012(self) -> None:
        layers = [module for module in self.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        for number, layer in enumerate(layers, start=1):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.constant_(layer.bias, 1.0 if number in (2, 4, 5, 6, 7) else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (B, C, H, W) to logits (B, K)."""
        return cast(Tensor, self.classifier(self.avgpool(self.features(x)).flatten(1)))
