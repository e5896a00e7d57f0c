"""Checks of image settings that depend on each other, and the size of training images by epoch.

Takes a `Config`; raises UserError. Pure, no torch.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from hpctrain.config.data_kinds import Family, family, names
from hpctrain.errors import UserError
from hpctrain.models.settings import NETWORKS

if TYPE_CHECKING:
    from hpctrain.config.settings import Config


def check_pictures(config: Config) -> None:
    """Raises UserError if random crops are set without pictures in files, or sizes by epoch that do not fit."""
    data, model, sizes = config.data, config.model, config.train.image_sizes
    if "random_resized_crop" in data.augment and family(data.name) is not Family.PICTURE:
        raise UserError(
            "data.augment",
            "random_resized_crop",
            f"is for pictures in files: data={', '.join(names(Family.PICTURE))}",
        )
    for key, (least, most) in (("crop_scale", data.crop_scale), ("crop_ratio", data.crop_ratio)):
        if least > most:
            raise UserError(f"data.{key}", [least, most], "must be the least, then the most")
    if not sizes:
        return
    shown = str([list(pair) for pair in sizes]).replace(" ", "")
    epochs = [epoch for epoch, _ in sizes]
    if epochs[0] != 0 or sorted(set(epochs)) != epochs:
        raise UserError(
            "train.image_sizes", shown, "must begin with epoch 0, epochs rising: [[0,128],[6,224]]"
        )
    if len(data.shape) != 3:
        raise UserError("train.image_sizes", shown, "is for images")
    if model.target is not None:
        return  # a user's class is not checked
    if not model.network.any_size:
        others = ", ".join(name for name, network in NETWORKS.items() if network.any_size)
        raise UserError(
            "train.image_sizes", shown, f"model={model.name} is made for one size; {others} are not"
        )
    for _, pixels in sizes:
        try:
            sized(config, pixels)
        except ValueError as error:
            reason = str(error).partition(": ")[2]
            raise UserError("train.image_sizes", shown, f"{pixels} pixels a side: {reason}") from None


def sized(config: Config, pixels: int) -> Any:
    """Returns the network's settings for inputs of `pixels` x `pixels`. Raises ValueError if they are too small."""
    settings = config.model.settings
    return dataclasses.replace(settings, input_shape=(settings.input_shape[0], pixels, pixels))


def image_size(config: Config, epoch: int) -> int | None:
    """Returns the side of the training images in `epoch`, in pixels; None if all epochs use `data.shape`."""
    begun = [pixels for start, pixels in config.train.image_sizes if start <= epoch]
    return begun[-1] if begun else None
