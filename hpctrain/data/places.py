"""Where the files of a data set are. Takes a DataConfig or a name; returns paths. No torch."""

from __future__ import annotations

import os
import pkgutil
from pathlib import Path
from typing import Any

from hpctrain.config.data_kinds import kind_of
from hpctrain.config.settings import DataConfig
from hpctrain.data.downloads import CIFAR10_FOLDER, CIFAR10_TRAIN, CIFAR10_VALIDATION
from hpctrain.errors import UserError

# The four files of MNIST and of sets in its format: (split, kind) to the stem of the name.
IDX_FILES = {
    ("train", "images"): "train-images-idx3-ubyte",
    ("train", "labels"): "train-labels-idx1-ubyte",
    ("validation", "images"): "t10k-images-idx3-ubyte",
    ("validation", "labels"): "t10k-labels-idx1-ubyte",
}
# Where a Debian package puts a set (dataset-fashion-mnist).
SYSTEM_FOLDERS = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}


def idx_paths(config: DataConfig) -> dict[tuple[str, str], Path]:
    """Returns the four IDX files of MNIST or Fashion-MNIST, gzipped or not. Raises UserError."""
    folder = find_folder(config.name, config.path)
    by_part = {}
    for key, stem in IDX_FILES.items():
        paths = [p for p in (folder / stem, folder / f"{stem}.gz") if p.is_file()]
        if not paths:
            raise UserError(
                "data.path", folder, f"has no {stem}(.gz); hpctrain data fetch {config.name} gets it"
            )
        by_part[key] = paths[0]
    return by_part


def cifar_paths(config: DataConfig) -> dict[str, list[Path]]:
    """Returns the files of CIFAR-10's binary version by split. Raises UserError."""
    folder = find_folder(config.name, config.path)
    if (folder / CIFAR10_FOLDER).is_dir():
        folder = folder / CIFAR10_FOLDER
    splits = {"train": CIFAR10_TRAIN, "validation": CIFAR10_VALIDATION}
    by_split = {split: [folder / name for name in names] for split, names in splits.items()}
    for path in (path for paths in by_split.values() for path in paths):
        if not path.is_file():
            raise UserError("data.path", folder, f"has no {path.name}; hpctrain data fetch cifar10 gets it")
    return by_split


def find_folder(name: str, path: str | None = None) -> Path:
    """Returns data.path if it is given, else the first of `places` that exists. Raises UserError."""
    if path:
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise UserError("data.path", path, "is not a folder")
        return folder
    if kind_of(name).given is not None:
        raise UserError("data.path", "null", f"give {kind_of(name).given}")
    if (named := find_named(name)) is not None:
        return named
    looked = ", ".join(map(str, places(name)))
    raise UserError("data.path", "null", f"{name} is not in {looked}; run: hpctrain data fetch {name}")


def source_of(config: DataConfig) -> Any:
    """Returns what the set's loader reads (`DataKind.source`): a set, a folder or sentences. Raises UserError."""
    return pkgutil.resolve_name(str(kind_of(config.name).source))(config)


def find_named(name: str) -> Path | None:
    """Returns the first of `places` that exists; None if none does."""
    return next((folder for folder in places(name) if folder.is_dir()), None)


def places(name: str) -> list[Path]:
    """Returns where a set may be: $HPCTRAIN_DATA/<name>, ./data/<name>, the system's folder."""
    roots = [os.environ["HPCTRAIN_DATA"]] if os.environ.get("HPCTRAIN_DATA") else []
    own = [Path(root) / name for root in [*roots, "data"]]
    return own + [folder for key, folder in SYSTEM_FOLDERS.items() if key == name]


def idx_files(config: DataConfig) -> tuple[Path, list[Path]]:
    """Returns the folder of MNIST or Fashion-MNIST and the files read from it. Raises UserError."""
    return find_folder(config.name, config.path), list(idx_paths(config).values())


def cifar_files(config: DataConfig) -> tuple[Path, list[Path]]:
    """Returns the folder of CIFAR-10's binary version and the files read from it. Raises UserError."""
    files = [path for paths in cifar_paths(config).values() for path in paths]
    return files[0].parent, files
