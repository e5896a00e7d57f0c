"""Where a data set's files are, and whether they are what they should be. NumPy only, no torch.

Takes a DataConfig; gives paths, or a UserError that says what is wrong and what to run.
"""

from __future__ import annotations

import os
from pathlib import Path

from hpctrain.config.checks import PAIRS, SPEECH
from hpctrain.config.image_sizes import PICTURES
from hpctrain.config.settings import DataConfig
from hpctrain.data.downloads import CIFAR10_FOLDER, CIFAR10_TRAIN, CIFAR10_VALIDATION
from hpctrain.data.images.cifar import records
from hpctrain.data.images.idx import read_shape
from hpctrain.errors import UserError

# The four files of MNIST and of everything made in its image: (split, kind) to the stem of the name.
IDX_FILES = {
    ("train", "images"): "train-images-idx3-ubyte",
    ("train", "labels"): "train-labels-idx1-ubyte",
    ("validation", "images"): "t10k-images-idx3-ubyte",
    ("validation", "labels"): "t10k-labels-idx1-ubyte",
}
# Sets that are text: tokenised once, by data/text/tokens.py.
TEXTS = ("text", "python_stdlib", "ptb", "wikitext2", "wikitext103", "hugging_face")
# Where a Debian package puts a set (dataset-fashion-mnist).
SYSTEM_FOLDERS = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}


def check(config: DataConfig) -> None:
    """Find a missing, truncated or wrong file before anything is started. Raises UserError."""
    if config.name in ("mnist", "fashion_mnist"):
        for (split, kind), path in idx_paths(config).items():
            _compare(read_shape(path)[0], split, config, path, kind)
    if config.name == "cifar10":
        for split, paths in cifar_paths(config).items():
            _compare(sum(map(records, paths)), split, config, paths[0].parent, "pictures")
    if config.name in (*TEXTS, *SPEECH, *PAIRS, *PICTURES):
        count_samples(config)


def count_samples(config: DataConfig) -> int:
    """Training samples of one epoch. Text is counted when it is tokenised, which may be now, or spoken."""
    if config.name in PICTURES:
        from hpctrain.data.images import sets

        return sets.check(config)
    if config.name in TEXTS:
        from hpctrain.data.text import check

        return check.check(config)
    if config.name in SPEECH:
        from hpctrain.data.speech.source import utterances

        return len(utterances(config)["train"])
    if config.name in PAIRS:
        from hpctrain.data.translation.source import pairs

        return len(pairs(config).train)
    return min(config.train_samples, config.train_limit or config.train_samples)


def _compare(count: int, split: str, config: DataConfig, path: Path, kind: str) -> None:
    official = config.train_samples if split == "train" else config.validation_samples
    if count != official:
        raise UserError("data.path", path, f"holds {count} {kind} for {split}, the official set {official}")


def idx_paths(config: DataConfig) -> dict[tuple[str, str], Path]:
    """The four IDX files of MNIST or Fashion-MNIST, gzipped or not. Raises UserError."""
    folder = find_folder(config.name, config.path)
    found = {}
    for key, stem in IDX_FILES.items():
        paths = [p for p in (folder / stem, folder / f"{stem}.gz") if p.is_file()]
        if not paths:
            raise UserError(
                "data.path", folder, f"has no {stem}(.gz); hpctrain data fetch {config.name} gets it"
            )
        found[key] = paths[0]
    return found


def cifar_paths(config: DataConfig) -> dict[str, list[Path]]:
    """The files of CIFAR-10's binary version by split. Raises UserError."""
    folder = find_folder(config.name, config.path)
    if (folder / CIFAR10_FOLDER).is_dir():
        folder = folder / CIFAR10_FOLDER
    splits = {"train": CIFAR10_TRAIN, "validation": CIFAR10_VALIDATION}
    found = {split: [folder / name for name in names] for split, names in splits.items()}
    for path in (path for paths in found.values() for path in paths):
        if not path.is_file():
            raise UserError("data.path", folder, f"has no {path.name}; hpctrain data fetch cifar10 gets it")
    return found


def find_folder(name: str, path: str | None = None) -> Path:
    """data.path where given, else the first of `places` that is there. Raises UserError."""
    if path:
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise UserError("data.path", path, "is not a folder")
        return folder
    for folder in places(name):
        if folder.is_dir():
            return folder
    looked = ", ".join(map(str, places(name)))
    raise UserError("data.path", "null", f"{name} is not in {looked}; run: hpctrain data fetch {name}")


def places(name: str) -> list[Path]:
    """Where a set may lie: $HPCTRAIN_DATA/<name>, ./data/<name>, the system's folder."""
    roots = [os.environ["HPCTRAIN_DATA"]] if os.environ.get("HPCTRAIN_DATA") else []
    found = [Path(root) / name for root in [*roots, "data"]]
    return found + [folder for key, folder in SYSTEM_FOLDERS.items() if key == name]
