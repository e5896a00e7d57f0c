"""Checks that a data set's files are what they should be, before anything is started. NumPy only, no torch.

Each check takes a DataConfig and returns the number of training samples, or raises a UserError that says what is wrong.
"""

from __future__ import annotations

import pkgutil
from pathlib import Path

from hpctrain.config.data_kinds import Family, family, kind_of
from hpctrain.config.settings import DataConfig
from hpctrain.data.images.cifar import records
from hpctrain.data.images.idx import read_shape
from hpctrain.data.places import cifar_paths, idx_paths
from hpctrain.errors import UserError
from hpctrain.storage.ownership import readable


@readable("data.path")
def check(config: DataConfig) -> int:
    """Returns the training samples per epoch, after checking that the set's files are complete. Raises UserError."""
    return int(pkgutil.resolve_name(kind_of(config.name).check)(config))


def count_samples(config: DataConfig) -> int:
    """Returns the training samples per epoch, for images without reading any file. Raises UserError."""
    if family(config.name) is Family.IMAGE:
        return count_settings(config)
    return check(config)


def count_settings(config: DataConfig) -> int:
    """Returns the training samples per epoch of a set whose size is in its settings."""
    return min(config.train_samples, config.train_limit or config.train_samples)


def check_idx(config: DataConfig) -> int:
    """Checks that each file of MNIST, or of a set in its format, has the official number of samples.

    Returns the training samples per epoch. Raises UserError.
    """
    for (split, kind), path in idx_paths(config).items():
        _compare(read_shape(path)[0], split, config, path, kind)
    return count_settings(config)


def check_cifar10(config: DataConfig) -> int:
    """Checks that the files of each split of CIFAR-10 together hold the official number of pictures.

    Returns the training samples per epoch. Raises UserError.
    """
    for split, paths in cifar_paths(config).items():
        _compare(sum(map(records, paths)), split, config, paths[0].parent, "pictures")
    return count_settings(config)


def _compare(count: int, split: str, config: DataConfig, path: Path, kind: str) -> None:
    official = config.train_samples if split == "train" else config.validation_samples
    if count != official:
        raise UserError("data.path", path, f"holds {count} {kind} for {split}, the official set {official}")
