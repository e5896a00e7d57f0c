"""What the package knows of a network without torch: one record each, beside its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Inputs = Literal["image", "tokens", "spectrogram", "pair"]


def one(settings: Any) -> int:
    """Returns 1: a sample is one unit, whatever the settings."""
    del settings
    return 1


@dataclass(frozen=True)
class Unit:
    """What the figures of a network are for, and what its published figures leave out.

    `name`: what one unit is. `in_sample`: from the settings to the units in a sample of their example length.
    `without`: layers left out of the work, `params_without` those left out of the parameters (regular expressions);
    `left_out` says so in words. `batch`: samples that a count takes if nobody says how many.
    """

    name: str
    in_sample: Callable[[Any], int] = one
    without: str | None = None
    params_without: str | None = None
    left_out: str | None = None
    batch: int = 1


@dataclass(frozen=True)
class Mixture:
    """A network's mixtures of experts, as its settings make them.

    `layers` of them have `experts` each, of which a vector of `width` visits `active`; an expert takes `capacity` times
    its even share of the vectors. `gates`: the layers that choose (a regular expression).
    """

    layers: int
    experts: int
    active: int
    expert_params: int
    width: int
    capacity: float
    gates: str


@dataclass(frozen=True)
class Network:
    """One network.

    `settings`: its frozen dataclass. `module`: what makes the torch.nn.Module of the settings, "package.module:name",
    imported when first needed. `inputs`: what its forward takes. Letters: B samples, C channels, H and W pixels, T
    tokens, F frequency bins, S words. image: (B, C, H, W); tokens: (B, T); spectrogram: (B, 1, F, T); pair: source
    (B, S), its lengths (B,), target (B, S). `loss`: from its result to the loss that a count of its training step ends
    in, named like `module`. `unit`: what its figures are for. `any_size`: images of any size, with the same weights.
    `looks_ahead`: a token's result depends on later tokens. `mixture`: from its settings to its experts, if it has any.
    """

    settings: type
    module: str
    inputs: Inputs = "image"
    loss: str = "hpctrain.models.losses:example_cross_entropy"
    unit: Unit = Unit("image")
    any_size: bool = False
    looks_ahead: bool = False
    mixture: Callable[[Any], Mixture] | None = None
