"""What is known of a network without importing torch: one record per network, defined beside its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Inputs = Literal["image", "tokens", "spectrogram", "pair"]
# The dimensions of each input whose size is free: all others follow from the network's settings.
FREE: dict[str, tuple[dict[int, str], ...]] = {
    "image": ({0: "batch"},),
    "tokens": ({0: "batch", 1: "words"},),
    "spectrogram": ({0: "batch", 3: "frames"},),
    "pair": ({0: "batch", 1: "source_words"}, {0: "batch"}, {0: "batch", 1: "target_words"}),
}


def one(settings: Any) -> int:
    """Returns 1: a sample is one unit, whatever the settings."""
    del settings
    return 1


@dataclass(frozen=True)
class Unit:
    """The unit that a network's figures are given for, and what its published figures leave out.

    `name`: what one unit is. `in_sample`: from the settings to the number of units in a sample of example length.
    `without` and `params_without`: regular expressions for the layers left out of the operations and of the
    parameters; `left_out` names them in words. `batch`: the number of samples that a count takes by default.
    """

    name: str
    in_sample: Callable[[Any], int] = one
    without: str | None = None
    params_without: str | None = None
    left_out: str | None = None
    batch: int = 1


@dataclass(frozen=True)
class Mixture:
    """A network's mixtures of experts.

    Each of its `layers` mixtures has `experts` experts; a vector of `width` visits `active` of them. An expert takes
    `capacity` times its even share of the vectors. `gates`: a regular expression for the layers that choose experts.
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

    `settings`: its frozen dataclass. `module`: "package.module:name" of the function from settings to torch.nn.Module,
    imported when first needed. `inputs`: what its forward takes. image: (B, C, H, W); tokens: (B, T); spectrogram:
    (B, 1, F, T); pair: source (B, S), its lengths (B,), target (B, S), with B samples, C channels, H and W pixels,
    T tokens or frames, F frequency bins, S words. `loss`: the function from its result to the loss in a count of its
    training step, named like `module`. `unit`: what its figures are given for. `any_size`: the same weights take
    images of any size. `looks_ahead`: a token's result depends on later tokens. `mixture`: the function from its
    settings to its experts, if it has any.
    """

    settings: type
    module: str
    inputs: Inputs = "image"
    loss: str = "hpctrain.models.losses:example_cross_entropy"
    unit: Unit = Unit("image")
    any_size: bool = False
    looks_ahead: bool = False
    mixture: Callable[[Any], Mixture] | None = None
