"""From a DataConfig to data sets: `load`, and a loader per kind, which config/data_kinds.py names."""

from __future__ import annotations

import gzip
import json
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpctrain.config.data_kinds import kind_of
from hpctrain.config.settings import DataConfig
from hpctrain.data.images import sets
from hpctrain.data.images.cifar import read_cifar
from hpctrain.data.images.decode import Decoding
from hpctrain.data.images.idx import read_idx
from hpctrain.data.images.resident import Finish, ImageDataset
from hpctrain.data.images.streamed import StreamedImages, decode_all
from hpctrain.data.images.workers import Decoders
from hpctrain.data.places import cifar_paths, idx_paths
from hpctrain.data.speech.source import remarks, utterances
from hpctrain.data.speech.spectrograms import SpeechDataset
from hpctrain.data.text import check, tokens
from hpctrain.data.text.sequences import TextDataset
from hpctrain.data.text.source import find_source
from hpctrain.data.translation.pairs import TranslationDataset
from hpctrain.data.translation.source import pairs, vocabulary
from hpctrain.errors import UserError


class Dataset(Protocol):
    """What the training loop needs of a split; see hpctrain/data/__init__.py."""

    shuffle: bool

    def __len__(self) -> int: ...

    def batch(
        self, indices: NDArray[np.int64], generator: torch.Generator | None = None
    ) -> tuple[Tensor, ...]:
        """Returns the tensors of the samples `indices` (B,): each (B, ...), inputs first, targets last."""

    def to(self, device: torch.device) -> Any:
        """Puts later batches on `device`; returns the set."""


@dataclass(frozen=True)
class Splits:
    """Both splits, and `files` that users of the trained model need: name in the run directory to content.

    `found` says in a line what the data are, and what of the files is left out.
    """

    train: Dataset
    validation: Dataset
    files: Mapping[str, str] = field(default_factory=dict)
    found: str = ""


@dataclass(frozen=True)
class Feeding:
    """What reading ahead needs to know of a rank: its largest batch, its largest image (pixels per side), its cores,
    whether it has a GPU (else the cores compute as well), and the seed of random crops."""

    batch_size: int = 64
    largest: int = 0
    cores: int = 1
    gpu: bool = False
    seed: int = 0

    def workers(self) -> int:
        """Returns the number of decoding processes: all cores but one with a GPU, few if the cores have to compute."""
        return min(max(1, self.cores - 1), 16) if self.gpu else max(1, self.cores // 8)


def load(config: DataConfig, feeding: Feeding | None = None) -> Splits:
    """Returns both splits, on the host. Raises UserError."""
    splits: Splits = pkgutil.resolve_name(kind_of(config.name).loader)(config, feeding or Feeding())
    return splits


def load_pictures(config: DataConfig, feeding: Feeding) -> Splits:
    """Returns the splits of a set of pictures. Raises UserError.

    A split is decoded once and kept if it fits into memory and is not cropped at random, else ahead of each step.
    """
    pictures = sets.find(config)
    shape = config.shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UserError("data.shape", shape, "must be channels (1 or 3), height, width")
    c, h, w = shape
    splits = {"train": pictures.train, "validation": pictures.validation}
    crops = {"train": "random_resized_crop" in config.augment, "validation": False}
    decoding = Decoding((c, h, w), config.resize or min(h, w), config.crop_scale, config.crop_ratio)
    ring = config.prefetch + 1
    decoders = Decoders(
        [split.reader for split in splits.values()],
        [decoding] * len(splits),
        len(splits) * ring,
        feeding.batch_size * c * max(h * w, feeding.largest**2),
        feeding.workers() if config.workers is None else config.workers,
    )
    made: dict[str, Dataset] = {}
    for number, (name, split) in enumerate(splits.items()):
        if int(split.labels.max(initial=0)) >= (config.num_classes or 0):
            raise UserError(
                "data.num_classes", config.num_classes, f"the set has {len(pictures.classes)} classes, and the label "
                f"{split.labels.max()} for {name}"
            )  # fmt: skip
        slots, training = range(number * ring, (number + 1) * ring), name == "train"
        if not crops[name] and len(split.keys) * c * h * w <= config.resident_gb * 2**30:
            whole = decode_all(split, (c, h, w), decoders, number, slots)
            made[name] = ImageDataset(whole, split.labels, config, augment=training)
        else:
            finish = Finish(config, augment=training)
            seed = feeding.seed if crops[name] else None
            made[name] = StreamedImages(split, finish, decoders, number, slots, shape=(c, h, w), seed=seed)
    if not any(isinstance(dataset, StreamedImages) for dataset in made.values()):
        decoders.close()
    classes = len(pictures.classes)
    found = _found(made["train"], made["validation"], f"pictures of {classes} classes", pictures.remarks)
    return Splits(made["train"], made["validation"], {"classes.json": json.dumps(pictures.classes)}, found)


def load_idx(config: DataConfig, feeding: Feeding) -> Splits:
    """Returns MNIST's or Fashion-MNIST's splits. Raises UserError."""
    arrays = {key: read_idx(path) for key, path in idx_paths(config).items()}
    return _splits(
        config,
        (arrays["train", "images"][:, None], arrays["train", "labels"]),
        (arrays["validation", "images"][:, None], arrays["validation", "labels"]),
    )


def load_cifar10(config: DataConfig, feeding: Feeding) -> Splits:
    """Returns CIFAR-10's splits. Raises UserError."""
    paths = cifar_paths(config)
    return _splits(config, read_cifar(paths["train"]), read_cifar(paths["validation"]))


def load_digits(config: DataConfig, feeding: Feeding) -> Splits:
    """Returns the optical digits of the UCI repository (Alpaydin and Kaynak, CC BY 4.0): 8x8 pixels of 0..16.

    They are doubled to 16x16; the last 360 of the 1,797 are for validation.
    """
    packed = resources.files("hpctrain.data").joinpath("digits.csv.gz").read_bytes()
    rows = np.array([line.split(",") for line in gzip.decompress(packed).decode().split()], dtype=np.float64)
    images = (rows[:, :64].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    images, labels = images.repeat(2, axis=2).repeat(2, axis=3), rows[:, 64].astype(np.uint8)
    cut = config.train_samples
    return _splits(config, (images[:cut], labels[:cut]), (images[cut:], labels[cut:]))


def load_synthetic(config: DataConfig, feeding: Feeding) -> Splits:
    """Returns noise of the right shape, the same for every run, for scaling studies and benchmarks."""
    generator = np.random.default_rng(0)

    def split(count: int) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        images = generator.integers(0, 256, (count, *config.shape), dtype=np.uint8)
        return images, generator.integers(0, config.num_classes or 2, count).astype(np.int64)

    return _splits(config, split(config.train_samples), split(config.validation_samples))


def load_text(config: DataConfig, feeding: Feeding) -> Splits:
    """Returns the splits of a text as token sequences, and its vocabulary. Raises UserError."""
    check.check(config)
    text, length = tokens.load(config), config.sequence_length or 1
    train, validation = (TextDataset(part, length, text.vocabulary) for part in (text.train, text.validation))
    counts = f"{len(text.train):,} tokens for training and {len(text.validation):,} for validation"
    where = f"; {said}" if (said := find_source(config).found) else ""
    return Splits(
        train,
        validation,
        {"vocabulary.json": json.dumps(text.vocabulary.to_json())},
        f"data: {counts}{where}",
    )


def load_speech(config: DataConfig, feeding: Feeding) -> Splits:
    """Returns the splits of a set of recordings. Raises UserError."""
    recordings = utterances(config)
    frames, bins = config.sequence_length or 1, config.frequency_bins or 161
    train, validation = (SpeechDataset(recordings[split], frames, bins) for split in ("train", "validation"))
    items = [*recordings["train"], *recordings["validation"]]
    return Splits(train, validation, found=_found(train, validation, "recordings", remarks(items)))


def load_pairs(config: DataConfig, feeding: Feeding) -> Splits:
    """Returns the splits of a parallel corpus, and its vocabulary. Raises UserError."""
    sentences, length = pairs(config), config.sequence_length or 1
    numbers = vocabulary(sentences.train, config.vocabulary_size or 1)
    train, validation = (
        TranslationDataset(part, numbers, length) for part in (sentences.train, sentences.validation)
    )
    return Splits(
        train, validation, {"vocabulary.json": json.dumps({"kind": "pairs", "tokens": list(numbers)})},
        _found(train, validation, "pairs of sentences", sentences.remarks),
    )  # fmt: skip


def _found(train: Dataset, validation: Dataset, what: str, left_out: Sequence[str] = ()) -> str:
    """Returns the line that says what the data are."""
    counts = f"data: {len(train):,} {what} for training and {len(validation):,} for validation"
    return "; left out: ".join([counts, *([", ".join(left_out)] if left_out else [])])


def _splits(config: DataConfig, train: Any, validation: Any) -> Splits:
    parts = (
        _dataset(config, *train, limit=config.train_limit, augment=True),
        _dataset(config, *validation, limit=config.validation_limit, augment=False),
    )
    return Splits(*parts, found=_found(*parts, f"images of {config.num_classes} classes"))


def _dataset(
    config: DataConfig, images: NDArray[np.uint8], labels: NDArray[Any], *, limit: int | None, augment: bool
) -> ImageDataset:
    return ImageDataset(images[:limit], labels[:limit], config, augment=augment)
