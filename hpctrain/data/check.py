"""Whether a data set's files are what they should be, before anything is started. NumPy only, no torch.

Takes a DataConfig; returns the number of training samples, or raises a UserError that says what is wrong.
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


def check(config: DataConfig) -> int:
    """Returns the training samples per epoch, once the files of the set are known to be whole. Raises UserError."""
    return int(pkgutil.resolve_name(kind_of(config.name).check)(config))


def count_samples(config: DataConfig) -> int:
    """Returns the training samples per epoch; the settings of images say it without a file. Raises UserError."""
    if family(config.name) is Family.IMAGE:
        return count_settings(config)
    return check(config)


def count_settings(config: DataConfig) -> int:
    """Returns the training samples per epoch of a set whose settings say how many it has."""
    return min(config.train_samples, config.train_limit or config.train_samples)


def check_idx(config: DataConfig) -> int:
    """The check of MNIST and of everything made in its image: each file has the official number of samples."""
    for (split, kind), path in idx_paths(config).items():
        _compare(read_shape(path)[0], split, config, path, kind)
    return count_settings(config)


def check_cifar10(config: DataConfig) -> int:
    """The check of CIFAR-10: the files of each split have the official number of pictures together."""
    for split, paths in cifar_paths(config).items():
        _compare(sum(map(records, paths)), split, config, paths[0].parent, "pictures")
    return count_settings(config)


def _compare(count: int, split: str, config: DataConfig, path: Path, kind: str) -> None:
    official = config.train_samples if split == "train" else config.validation_samples
    if count != official:
        raise UserError("data.path", path, f"holds {count} {kind} for {split}, the official set {official}")
