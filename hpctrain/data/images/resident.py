"""Images in memory: uint8 (N, C, H, W) on the host or the device; each batch is converted to float and augmented.

B samples, C channels, H and W pixels. Normalisation is (x/255 − mean) / std, computed as one multiply-add.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from hpctrain.config.settings import DataConfig
from hpctrain.errors import UserError

CROP_PADDING = 4  # pixels, He et al. 2015 (arXiv:1512.03385), section 4.2
CUTOUT = 16  # pixels per side, DeVries and Taylor 2017 (arXiv:1708.04552)


class ImageDataset:
    """Labelled images. `config.shape` is what the model sees, including `config.pad` black pixels on each side."""

    shuffle = True

    def __init__(
        self, images: NDArray[np.uint8], labels: NDArray[Any], config: DataConfig, *, augment: bool
    ) -> None:
        """`images` (N, C, H, W) before padding. Raises UserError if shapes or labels do not fit."""
        pad = config.pad
        padded = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        if padded.shape[1:] != config.shape:
            raise UserError(
                "data.shape", config.shape, f"the files and data.pad={pad} give {padded.shape[1:]}"
            )
        classes = config.num_classes or 0
        if len(labels) != len(images):
            raise UserError("data.path", config.path, f"has {len(images)} images and {len(labels)} labels")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise UserError(
                "data.num_classes", classes, f"the labels go from {labels.min()} to {labels.max()}"
            )
        self._images = torch.from_numpy(np.ascontiguousarray(padded))
        self._labels = torch.from_numpy(labels.astype(np.int64))
        self._finish = Finish(config, augment=augment)
        self._size: int | None = None

    def __len__(self) -> int:
        return len(self._labels)

    def to(self, device: torch.device) -> ImageDataset:
        """Moves everything to `device`, so that a batch needs no transfer; returns the set."""
        self._images, self._labels = self._images.to(device), self._labels.to(device)
        self._finish.to(device)
        return self

    def resize(self, pixels: int | None) -> None:
        """Makes later batches `pixels` high and wide; None: their full size."""
        self._size = pixels

    def batch(
        self, indices: NDArray[np.int64], generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns images (B, C, H, W) float32 and labels (B,) int64; augmented if `generator` is given."""
        chosen = torch.from_numpy(indices).to(self._labels.device)
        images = self._finish(self._images.index_select(0, chosen), generator, self._size)
        return images, self._labels.index_select(0, chosen)


class Finish:
    """Turns batches of bytes into what the network sees, on the device: normalised, augmented, resized."""

    def __init__(self, config: DataConfig, *, augment: bool) -> None:
        mean, std = torch.tensor(config.mean), torch.tensor(config.std)
        self._scale, self._shift = (1 / (255 * std)).view(-1, 1, 1), (-mean / std).view(-1, 1, 1)
        kinds = config.augment if augment else ()
        self._augment = [AUGMENTATIONS[kind] for kind in kinds if kind in AUGMENTATIONS]

    def to(self, device: torch.device) -> None:
        """Moves the normalisation's constants to `device`."""
        self._scale, self._shift = self._scale.to(device), self._shift.to(device)

    def __call__(self, images: Tensor, generator: torch.Generator | None, size: int | None) -> Tensor:
        """Returns float32 from uint8: (B, C, H, W), or (B, C, size, size) if a size is given."""
        floats = images.float().mul_(self._scale).add_(self._shift)
        if generator is not None:
            for augment in self._augment:
                floats = augment(floats, generator, self._shift)
        if size is None or floats.shape[2:] == (size, size):
            return floats
        return functional.interpolate(floats, (size, size), mode="bilinear", antialias=True)


def flip(images: Tensor, generator: torch.Generator, shift: Tensor) -> Tensor:
    """Returns images (B, C, H, W), each mirrored left to right with probability one half."""
    del shift
    mirrored = torch.rand(len(images), generator=generator).to(images.device) < 0.5
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)


def pad_crop(images: Tensor, generator: torch.Generator, shift: Tensor) -> Tensor:
    """Returns images (B, C, H, W), each shifted by up to CROP_PADDING pixels in both directions, with black borders."""
    b, _, h, w = images.shape
    padded = functional.pad(images - shift, [CROP_PADDING] * 4) + shift
    offsets = torch.randint(2 * CROP_PADDING + 1, (2, b), generator=generator).to(images.device)
    rows = offsets[0].view(-1, 1) + torch.arange(h, device=images.device)
    columns = offsets[1].view(-1, 1) + torch.arange(w, device=images.device)
    samples = torch.arange(b, device=images.device)
    return padded.permute(0, 2, 3, 1)[
        samples.view(-1, 1, 1), rows.view(b, h, 1), columns.view(b, 1, w)
    ].permute(0, 3, 1, 2)


def cutout(images: Tensor, generator: torch.Generator, shift: Tensor) -> Tensor:
    """Returns images (B, C, H, W), each with a square of CUTOUT pixels per side at a random place set to the mean."""
    del shift
    b, _, h, w = images.shape
    half = min(CUTOUT, h // 2) // 2
    centre = (torch.rand(2, b, generator=generator) * torch.tensor([[h], [w]])).to(images.device)
    rows = (torch.arange(h, device=images.device) - centre[0].view(-1, 1)).abs() < half
    columns = (torch.arange(w, device=images.device) - centre[1].view(-1, 1)).abs() < half
    return images.masked_fill((rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1), 0.0)


# `random_resized_crop` is not one of them: it crops the whole picture while decoding (data/images/decode.py).
AUGMENTATIONS = {"flip": flip, "pad_crop": pad_crop, "cutout": cutout}
