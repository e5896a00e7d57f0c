"""Where a data set's files are, and whether they are what they should be. NumPy only, no torch.

Takes a DataConfig; gives paths, or a UserError that says what is wrong and what to run.
"""

from __future__ import annotations

import os
from pathlib import Path

from hpctrain.config import DataConfig
from hpctrain.data.idx import read_shape
from hpctrain.errors import UserError

# The four files of MNIST and of everything made in its image: (split, kind) to the stem of the name.
IDX_FILES = {
    ("train", "images"): "train-images-idx3-ubyte",
    ("train", "labels"): "train-labels-idx1-ubyte",
    ("validation", "images"): "t10k-images-idx3-ubyte",
    ("validation", "labels"): "t10k-labels-idx1-ubyte",
}
# Where a Debian package puts a set (dataset-fashion-mnist).
SYSTEM_FOLDERS = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}


def check(config: DataConfig) -> None:
    """Find a missing, truncated or wrong file before anything is started. Raises UserError."""
    if config.name in ("mnist", "fashion_mnist"):
        for (split, kind), path in idx_paths(config).items():
            count = config.train_samples if split == "train" else config.validation_samples
            if read_shape(path)[0] != count:
                raise UserError(
                    "data.path", path, f"holds {read_shape(path)[0]} {kind}, the official file {count}"
                )


def idx_paths(config: DataConfig) -> dict[tuple[str, str], Path]:
    """The four IDX files of MNIST or Fashion-MNIST, gzipped or not. Raises UserError."""
    folder = find_folder(config)
    found = {}
    for key, stem in IDX_FILES.items():
        paths = [p for p in (folder / stem, folder / f"{stem}.gz") if p.is_file()]
        if not paths:
            raise UserError(
                "data.path", folder, f"has no {stem}(.gz); hpctrain data fetch {config.name} gets it"
            )
        found[key] = paths[0]
    return found


def find_folder(config: DataConfig) -> Path:
    """data.path where given, else $HPCTRAIN_DATA/<name>, ./data/<name>, the system's. Raises UserError."""
    if config.path:
        folder = Path(config.path).expanduser()
        if not folder.is_dir():
            raise UserError("data.path", config.path, "is not a folder")
        return folder
    places = [Path("data") / config.name]
    if os.environ.get("HPCTRAIN_DATA"):
        places.insert(0, Path(os.environ["HPCTRAIN_DATA"]) / config.name)
    if config.name in SYSTEM_FOLDERS:
        places.append(SYSTEM_FOLDERS[config.name])
    for folder in places:
        if folder.is_dir():
            return folder
    looked = ", ".join(map(str, places))
    raise UserError(
        "data.path", "null", f"{config.name} is not in {looked}; run: hpctrain data fetch {config.name}"
    )
