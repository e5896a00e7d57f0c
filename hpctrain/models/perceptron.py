"""Perceptron and multi-layer perceptron.

Both take images (B, C, H, W) and return one score per class (B, K): B samples, K classes. Weights are drawn from
torch's global generator as in Glorot & Bengio 2010 (uniform, for symmetric activations), biases are zero.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from hpctrain.models.settings_image import MLPSettings, PerceptronSettings

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
}


class Perceptron(nn.Module):
    """A linear combination of the pixels and one activation (Rosenblatt 1958)."""

    def __init__(self, settings: PerceptronSettings) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(math.prod(settings.input_shape), settings.num_classes)
        self.activation = ACTIVATIONS[settings.activation]()
        glorot(self)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (B, C, H, W) to scores (B, K)."""
        return self.activation(self.linear(self.flatten(x)))  # type: ignore[no-any-return]


class MLP(nn.Sequential):
    """Input, intermediate and output layers; the activation follows every layer but the last."""

    def __init__(self, settings: MLPSettings) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        width = math.prod(settings.input_shape)
        for hidden in settings.hidden:
            layers += [nn.Linear(width, hidden), ACTIVATIONS[settings.activation]()]
            width = hidden
        super().__init__(*layers, nn.Linear(width, settings.num_classes))
        glorot(self)


def glorot(model: nn.Module) -> None:
    """Sets Glorot's uniform weights and zero biases in every linear and convolutional layer."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
