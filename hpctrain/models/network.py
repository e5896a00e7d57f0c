"""What the package knows of a network without torch: one record each, beside its settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Network:
    """One network.

    `settings`: its frozen dataclass. `module`: what makes the torch.nn.Module of the settings, "package.module:name",
    imported when first needed. `inputs`: what its forward takes. Letters: B samples, C channels, H and W pixels, T
    tokens, F frequency bins, S words. image: (B, C, H, W); tokens: (B, T); spectrogram: (B, 1, F, T); pair: source
    (B, S), its lengths (B,), target (B, S).
    """

    settings: type
    module: str
    inputs: Literal["image", "tokens", "spectrogram", "pair"] = "image"
