"""Which pictures a DataConfig names, and their classes: a folder, a packed folder, a Hugging Face set.

Takes a DataConfig; returns a `PictureSet`: a reader, keys and labels of each split. No torch; no picture is read.
A folder's pictures are ordered by a hash of their names, so that the first n, or a shard, are a random sample;
packing keeps this order.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from hpctrain.config.settings import DataConfig
from hpctrain.data.images.decode import Arrow, Folder, Key, Reader
from hpctrain.data.places import find_folder, source_of
from hpctrain.errors import UserError
from hpctrain.storage.ownership import unread

# What Pillow reads, one picture in a file.
SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp", ".avif", ".ppm", ".pgm", ".pbm",
    ".pnm", ".tif", ".tiff", ".jp2", ".j2k", ".tga",
}  # fmt: skip
NOT_CLASSES = {"__MACOSX"}  # what macOS leaves in archives
SPLITS = {"train": ("train",), "validation": ("val", "valid", "validation", "test")}
MANIFEST = "pack.json"
EXTRA = "needs an extra: pip install 'hpctrain[images]'"


@dataclass(frozen=True)
class Split:
    """One split: `reader` reads picture i by `keys[i]`; its class is `labels[i]`."""

    reader: Reader
    keys: Sequence[Key]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class PictureSet:
    """Both splits, the names of the classes, and what of the files is left out."""

    classes: tuple[str, ...]
    train: Split
    validation: Split
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shard:
    """One Arrow file of a packed set."""

    file: str
    samples: Annotated[int, Ge(0)]
    bytes: Annotated[int, Ge(0)]
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The content of pack.json, which `hpctrain data pack` writes. `splits` has `train` and `validation`."""

    format: int
    classes: tuple[str, ...]
    splits: dict[str, tuple[Shard, ...]]
    resize: int | None = None

    def samples(self, split: str) -> int:
        """Returns the number of pictures of a split."""
        return sum(shard.samples for shard in self.splits[split])


def find(config: DataConfig) -> PictureSet:
    """Returns both splits, cut to their limits. Raises UserError."""
    whole = source_of(config)
    train, validation = (
        Split(split.reader, split.keys[:limit], split.labels[:limit])
        for split, limit in ((whole.train, config.train_limit), (whole.validation, config.validation_limit))
    )
    return PictureSet(whole.classes, train, validation, whole.remarks)


def check(config: DataConfig) -> int:
    """Returns the number of training samples, from names and file sizes alone.

    Raises UserError, naming a shard that is missing or has the wrong size.
    """
    folder = find_folder(config.name, config.path)
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        check_shards(folder, manifest)
        counts = {split: manifest.samples(split) for split in SPLITS}
    else:
        listed = _listing(str(folder))
        counts = {split: len(listed[1][split]) for split in SPLITS}
    for split, official in (("train", config.train_samples), ("validation", config.validation_samples)):
        if official and counts[split] != official:
            said = f"holds {counts[split]} pictures for {split}, the official set {official}"
            raise UserError("data.path", folder, said)
    return min(counts["train"], config.train_limit or counts["train"])


def check_hub(config: DataConfig) -> int:
    """Returns the number of training samples of a Hugging Face set. Raises UserError."""
    return len(find(config).train.keys)


def num_classes(config: DataConfig) -> int:
    """Returns the number of classes of a set that has no official number. Raises UserError."""
    folder = find_folder(config.name, config.path)
    packed = (folder / MANIFEST).is_file()
    return len(read_manifest(folder).classes if packed else _class_names(_split_folder(folder, "train")))


def num_classes_of_hub(config: DataConfig) -> int:
    """Returns the number of classes of a Hugging Face set. Raises UserError."""
    return len(find(config).classes)


def of_path(config: DataConfig) -> PictureSet:
    """Returns the pictures of a set's folder, packed or not. Raises UserError."""
    return of_folder(find_folder(config.name, config.path))


def of_folder(folder: Path) -> PictureSet:
    """Returns a folder of pictures, packed or not. Raises UserError."""
    if (folder / MANIFEST).is_file():
        return _of_pack(folder)
    classes, listed, remarks = _listing(str(folder))

    def split(name: str) -> Split:
        pictures = listed[name]
        labels = np.fromiter((label for _, label in pictures), np.int64, len(pictures))
        return Split(Folder(str(folder)), [path for path, _ in pictures], labels)

    return PictureSet(classes, split("train"), split("validation"), remarks)


@functools.lru_cache(maxsize=2)
def _listing(root: str) -> tuple[tuple[str, ...], dict[str, list[tuple[str, int]]], tuple[str, ...]]:
    """Returns the class names; for each split, (path relative to `root`, class number) of every picture; remarks."""
    folder = Path(root)
    others: Counter[str] = Counter()
    strange: list[str] = []
    classes = _class_names(_split_folder(folder, "train"))
    numbers = {name: number for number, name in enumerate(classes)}
    listed = {}
    for split in SPLITS:
        place = _split_folder(folder, split)
        pictures = []
        strange += [f"{place.name}/{name}" for name in sorted(NOT_CLASSES) if (place / name).is_dir()]
        for name in _class_names(place):
            if name not in numbers:
                raise UserError(
                    "data.path", place / name, f"is not a class of {_split_folder(folder, 'train')}"
                )
            paths, suffixes = _pictures_below(str(place / name))
            others.update(suffixes)
            pictures += [(os.path.relpath(path, root), numbers[name]) for path in paths]
        if not pictures:
            raise UserError("data.path", place, f"holds no pictures ({', '.join(sorted(SUFFIXES))})")
        used = {number for _, number in pictures}
        if split == "train" and (empty := next((c for n, c in enumerate(classes) if n not in used), None)):
            # It would shift the numbers of the classes after it, but not change the files that identify the run.
            raise UserError("data.path", place / empty, "is a class without pictures: remove the folder")
        pictures.sort(key=lambda item: hashlib.sha256(item[0].encode()).digest())
        listed[split] = pictures
    remarks = [f"folder {name}" for name in strange]
    if others:
        kinds = ", ".join(f"{suffix or 'without suffix'} {n:,}" for suffix, n in others.most_common(3))
        remarks.append(f"{others.total():,} files that are not pictures ({kinds})")
    return classes, listed, tuple(remarks)


def files(config: DataConfig) -> tuple[Path, list[Path]]:
    """Returns a set's folder and the files read from it: pictures, or pack.json and its shards. Raises UserError."""
    folder = find_folder(config.name, config.path)
    if (folder / MANIFEST).is_file():
        shards = [shard.file for shards in read_manifest(folder).splits.values() for shard in shards]
        return folder, [folder / name for name in (MANIFEST, *shards)]
    places = [_split_folder(folder, split) for split in SPLITS]
    classes = [str(place / name) for place in places for name in _class_names(place)]
    return folder, [Path(path) for place in classes for path in sorted(_pictures_below(place)[0])]


def _split_folder(folder: Path, split: str) -> Path:
    for name in SPLITS[split]:
        if (folder / name).is_dir():
            return folder / name
    said = f"has no folder {' or '.join(SPLITS[split])}: pictures lie in train/<class>/ and val/<class>/"
    raise UserError("data.path", folder, said)


def _class_names(folder: Path) -> tuple[str, ...]:
    below = (entry for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    names = sorted(entry.name for entry in below if entry.name not in NOT_CLASSES)
    if not names:
        raise UserError(
            "data.path", folder, "has no folder for each class: pictures lie in <class>/ below it"
        )
    return tuple(names)


def _pictures_below(folder: str) -> tuple[list[str], Counter[str]]:
    """Returns the pictures below a folder, in linked folders too, and how many other files have which suffix."""
    pictures: list[str] = []
    others: Counter[str] = Counter()
    seen = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, followlinks=True):
        linked = [name for name in folders if os.path.islink(os.path.join(place, name))]  # noqa: PTH114, PTH118
        for name in linked:
            real = os.path.realpath(os.path.join(place, name))  # noqa: PTH118
            if real in seen or place.startswith(f"{real}/"):  # a second time, or in a circle
                folders.remove(name)
            seen.add(real)
        for name in names:
            if name.startswith("."):
                continue
            suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 -- there may be a million
            if suffix in SUFFIXES:
                pictures.append(os.path.join(place, name))  # noqa: PTH118
            else:
                others[suffix] += 1
    return pictures, others


def read_manifest(folder: Path) -> Manifest:
    """Returns the manifest of a packed folder. Raises UserError."""
    path = folder / MANIFEST
    try:
        manifest: Manifest = TypeAdapter(Manifest).validate_json(path.read_bytes())
    except OSError as error:
        raise UserError("data.path", path, f"cannot be read: {unread(error)}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            "data.path", path, f"is not a list of packed pictures: {where}: {first['msg']}"
        ) from None
    if manifest.format != 1 or set(manifest.splits) != set(SPLITS):
        raise UserError("data.path", path, f"has format {manifest.format}, this version reads format 1")
    return manifest


def check_shards(folder: Path, manifest: Manifest) -> None:
    """Raises UserError, naming the first shard that is missing or has the wrong size."""
    for shard in (shard for shards in manifest.splits.values() for shard in shards):
        path = folder / shard.file
        if not path.is_file():
            raise UserError("data.path", folder, f"{shard.file}, a shard of the packed set, is missing")
        if path.stat().st_size != shard.bytes:
            size = path.stat().st_size
            said = f"{shard.file} is broken: {size} bytes, packed were {shard.bytes}; pack the set again"
            raise UserError("data.path", folder, said)


def _of_pack(folder: Path) -> PictureSet:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError("data.path", folder, f"is packed, which {EXTRA}") from None
    manifest = read_manifest(folder)
    check_shards(folder, manifest)

    def split(name: str) -> Split:
        reader = Arrow([str(folder / shard.file) for shard in manifest.splits[name]])
        return Split(reader, range(len(reader)), reader.column("label").astype(np.int64))

    return PictureSet(manifest.classes, split("train"), split("validation"))


def of_hub(config: DataConfig) -> PictureSet:
    """Returns a Hugging Face set; validation uses the split `validation`, else `test`, else the last rows of `train`.

    Raises UserError.
    """
    from hpctrain.data.hub import load_rows

    return _arranged(load_rows(config), config)


def _arranged(rows: Any, config: DataConfig) -> PictureSet:
    features = rows["train"].features
    image = _column(features, config.image_field, "Image", "data.image_field")
    label = _column(features, config.label_field, "ClassLabel", "data.label_field")

    def split(part: Any) -> Split:
        files = [entry["filename"] for entry in part.cache_files]
        reader = Arrow(files, image)
        if not files or len(reader) != len(part):
            raise UserError(
                "data.source", config.source, "is not whole in Arrow files of the library's cache"
            )
        return Split(reader, range(len(reader)), _labels(reader.column(label), label))

    train = split(rows["train"])
    name = next((name for name in SPLITS["validation"] if name in rows), None)
    if name is not None:
        validation = split(rows[name])
    else:
        cut = round((1 - config.validation_fraction) * len(train.keys))
        train, validation = (
            Split(train.reader, train.keys[part], train.labels[part])
            for part in (slice(cut), slice(cut, None))
        )
    names = getattr(features[label], "names", None) or range(int(train.labels.max()) + 1)
    return PictureSet(tuple(map(str, names)), train, validation)


def _labels(values: NDArray[Any], column: str) -> NDArray[np.int64]:
    """Returns the labels in a column's `values` (N,). Raises UserError, naming the first that is not a class number."""
    right = np.zeros(len(values), bool)
    if values.dtype.kind in "fiub":  # whole numbers with gaps are read as floats
        right = (values == np.round(values)) & (values >= 0)
    if not right.all():
        row = int(np.flatnonzero(~right)[0])
        value = values[row]
        held = "nothing" if value is None or value != value else f"{value}"
        said = f"row {row} holds {held}; labels must be whole numbers from 0 on"
        raise UserError("data.label_field", column, said)
    return values.astype(np.int64)


def _column(features: Any, asked: str | None, kind: str, key: str) -> str:
    """Returns the column `asked` for, else the first whose feature is a `kind`. Raises UserError."""
    if asked is not None and asked not in features:
        raise UserError(key, asked, f"must be one of {', '.join(features)}")
    name = asked or next((name for name, what in features.items() if type(what).__name__ == kind), None)
    if name is None:
        raise UserError(key, "null", f"no column is of kind {kind}: must be one of {', '.join(features)}")
    return name
