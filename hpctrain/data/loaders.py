"""From a DataConfig to data sets: a plain dict from name to loader."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpctrain.config import PAIRS, SPEECH, DataConfig
from hpctrain.data import text_check, tokens
from hpctrain.data.cifar import read_cifar
from hpctrain.data.files import TEXTS, cifar_paths, idx_paths
from hpctrain.data.idx import read_idx
from hpctrain.data.images import ImageDataset
from hpctrain.data.parallel import TranslationDataset
from hpctrain.data.parallel_source import pairs, vocabulary
from hpctrain.data.speech import SpeechDataset
from hpctrain.data.speech_source import utterances
from hpctrain.data.text import TextDataset
from hpctrain.errors import choose


class Dataset(Protocol):
    shuffle: bool

    def __len__(self) -> int: ...

    def batch(
        self, indices: NDArray[np.int64], generator: torch.Generator | None = None
    ) -> tuple[Tensor, ...]: ...

    def to(self, device: torch.device) -> Any: ...


@dataclass(frozen=True)
class Splits:
    """`files`: what users of the trained model need beside it, by the name of the run directory's file."""

    train: Dataset
    validation: Dataset
    files: Mapping[str, str] = field(default_factory=dict)


def load(config: DataConfig) -> Splits:
    """Both splits, on the host. Raises UserError."""
    if config.name not in LOADERS:
        raise choose("data.name", config.name, LOADERS)
    return LOADERS[config.name](config)


def _idx(config: DataConfig) -> Splits:
    arrays = {key: read_idx(path) for key, path in idx_paths(config).items()}
    return _splits(
        config,
        (arrays["train", "images"][:, None], arrays["train", "labels"]),
        (arrays["validation", "images"][:, None], arrays["validation", "labels"]),
    )


def _cifar10(config: DataConfig) -> Splits:
    paths = cifar_paths(config)
    return _splits(config, read_cifar(paths["train"]), read_cifar(paths["validation"]))


def _digits(config: DataConfig) -> Splits:
    """The optical digits of the UCI repository (Alpaydin and Kaynak, CC BY 4.0): 8x8 pixels of 0..16.

    Doubled to 16x16; the last 360 of the 1,797 are for validation.
    """
    packed = resources.files("hpctrain.data").joinpath("digits.csv.gz").read_bytes()
    rows = np.array([line.split(",") for line in gzip.decompress(packed).decode().split()], dtype=np.float64)
    images = (rows[:, :64].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    images, labels = images.repeat(2, axis=2).repeat(2, axis=3), rows[:, 64].astype(np.uint8)
    cut = config.train_samples
    return _splits(config, (images[:cut], labels[:cut]), (images[cut:], labels[cut:]))


def _synthetic(config: DataConfig) -> Splits:
    """Noise of the right shape, the same for every run: for scaling studies and benchmarks."""
    generator = np.random.default_rng(0)

    def split(count: int) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        images = generator.integers(0, 256, (count, *config.shape), dtype=np.uint8)
        return images, generator.integers(0, config.num_classes or 2, count).astype(np.int64)

    return _splits(config, split(config.train_samples), split(config.validation_samples))


def _text(config: DataConfig) -> Splits:
    text_check.check(config)
    found, length = tokens.load(config), config.sequence_length or 1
    train, validation = (
        TextDataset(part, length, found.vocabulary) for part in (found.train, found.validation)
    )
    return Splits(train, validation, {"vocabulary.json": json.dumps(found.vocabulary.to_json())})


def _speech(config: DataConfig) -> Splits:
    found = utterances(config)
    frames, bins = config.sequence_length or 1, config.frequency_bins or 161
    train, validation = (SpeechDataset(found[split], frames, bins) for split in ("train", "validation"))
    return Splits(train, validation)


def _parallel(config: DataConfig) -> Splits:
    found, length = pairs(config), config.sequence_length or 1
    numbers = vocabulary(found.train, config.vocabulary_size or 1)
    train, validation = (
        TranslationDataset(part, numbers, length) for part in (found.train, found.validation)
    )
    return Splits(
        train, validation, {"vocabulary.json": json.dumps({"kind": "pairs", "tokens": list(numbers)})}
    )


def _splits(config: DataConfig, train: Any, validation: Any) -> Splits:
    return Splits(
        _dataset(config, *train, limit=config.train_limit, augment=True),
        _dataset(config, *validation, limit=config.validation_limit, augment=False),
    )


def _dataset(
    config: DataConfig, images: NDArray[np.uint8], labels: NDArray[Any], *, limit: int | None, augment: bool
) -> ImageDataset:
    return ImageDataset(images[:limit], labels[:limit], config, augment=augment)


LOADERS: dict[str, Callable[[DataConfig], Splits]] = {
    "fashion_mnist": _idx,
    "mnist": _idx,
    "cifar10": _cifar10,
    "digits": _digits,
    "synthetic": _synthetic,
    **dict.fromkeys(TEXTS, _text),
    **dict.fromkeys(SPEECH, _speech),
    **dict.fromkeys(PAIRS, _parallel),
}
