"""Text as token numbers in memory-mapped files, made once and kept in the user's cache.

    <cache>/tokens/<name>-<digest>/   train.bin, validation.bin (uint16, or uint32 if 2^16 are too few,
                                      little-endian), vocabulary.json, meta.json

Takes a DataConfig; returns `Tokens`. The digest covers the text's identity (names, sizes, times) and how it is
cut. A folder is published by one rename, so a reader sees all of it or nothing; of several processes on a
machine one works and the others wait. Memory stays at a few blocks, whatever the text's size.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpctrain.config.settings import DataConfig
from hpctrain.data.text import vocabulary as vocabularies
from hpctrain.data.text.source import Source, cache_folder, find_source, make_cache, open_as
from hpctrain.data.text.vocabulary import KINDS, Vocabulary
from hpctrain.errors import UserError
from hpctrain.report.numbers import short
from hpctrain.storage.files import lock_file
from hpctrain.storage.run_state import storage_failure

FORMAT = 1
SPLITS = ("train", "validation")
DEFAULT_SIZES = {"word": 10_000, "bpe": 4096}  # at most, if the user names no size
SAY_FROM_BYTES = 20 * 2**20  # a text from this size on is worth a line for people


@dataclass(frozen=True)
class Tokens:
    """Memory-mapped token numbers of both splits."""

    train: NDArray[Any]
    validation: NDArray[Any]
    vocabulary: Vocabulary


def load(config: DataConfig) -> Tokens:
    """From the cache, or tokenised now. Raises UserError if the text or the vocabulary is not usable."""
    folder = _prepared(config)
    meta = json.loads((folder / "meta.json").read_text())
    words = vocabularies.from_json(json.loads((folder / "vocabulary.json").read_text()))
    train, validation = (
        np.memmap(folder / f"{split}.bin", meta["dtype"], "r", shape=(meta[split],)) for split in SPLITS
    )
    return Tokens(train, validation, words)


def counts(config: DataConfig) -> dict[str, int]:
    """Tokens in each split, without reading them."""
    meta = json.loads((_prepared(config) / "meta.json").read_text())
    return {split: meta[split] for split in SPLITS}


def vocabulary_size(config: DataConfig) -> int:
    """Returns `data.vocabulary_size` if the user leaves it to the text. Raises UserError."""
    most = DEFAULT_SIZES.get(config.tokens)
    if config.tokens == "bpe":
        return DEFAULT_SIZES["bpe"]
    source = find_source(config)
    path = _cache() / f"{_digest(config, source)}.size.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return int(json.loads(path.read_text())["size"])
    in_text = vocabularies.available(config.tokens, source.train())
    size = min(in_text, most or in_text)
    with _writing(path.parent):
        draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=".new.")) / path.name
        draft.write_text(json.dumps({"size": size}))
        draft.replace(path)
        draft.parent.rmdir()
    return size


def _prepared(config: DataConfig) -> Path:
    """The folder of this text's tokens, whole."""
    source = find_source(config)
    parent, digest = _cache(), _digest(config, source)
    folder = parent / f"{config.name}-{digest}"
    if _is_whole(folder):
        return folder
    with _writing(parent), _lock(parent / f".{digest}.lock") as locked:
        if _is_whole(folder):  # another has made it while we waited
            return folder
        prefix = f".new.{digest}."
        if locked:  # whoever left these is gone
            for left in parent.glob(f"{prefix}*"):
                shutil.rmtree(left, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        try:
            _tokenise(config, source, draft)
            if find_source(config).identity != source.identity:
                raise UserError("data.path", config.path, "changed while it was read")
            if folder.exists():
                shutil.rmtree(folder)  # damaged: a whole one would have been taken
            open_as(parent, draft)
            with contextlib.suppress(FileExistsError):
                _publish(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder


def _tokenise(config: DataConfig, source: Source, draft: Path) -> None:
    """Write the four files. The vocabulary is the training text's."""
    began = time.monotonic()
    loud = (source.size_bytes or 0) >= SAY_FROM_BYTES
    if loud:
        _say(f"reading {short(source.size_bytes or 0, 'B', digits=3)} of text into {draft.parent}")
    words: Vocabulary = KINDS[config.tokens].learn(source.train(), config.vocabulary_size or 0)
    dtype = np.dtype("<u2" if words.size <= 2**16 else "<u4")
    meta: dict[str, Any] = {"format": FORMAT, "dtype": dtype.str}
    for split, blocks in zip(SPLITS, (source.train(), source.validation()), strict=True):
        meta[split] = 0
        with (draft / f"{split}.bin").open("wb") as file:
            for numbers in words.encode(blocks):
                file.write(numbers.astype(dtype).data)
                meta[split] += len(numbers)
            _flush(file)
    for name, value in (("vocabulary.json", words.to_json()), ("meta.json", meta)):
        with (draft / name).open("w") as file:
            json.dump(value, file)
            _flush(file)
    if loud:
        _say(f"{meta['train']:,} training tokens in {time.monotonic() - began:.1f} s")


def _is_whole(folder: Path) -> bool:
    """Whether every file is there with the length that meta.json says."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        width = np.dtype(meta["dtype"]).itemsize
        sizes = [(folder / f"{split}.bin").stat().st_size == width * meta[split] for split in SPLITS]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return all(sizes) and meta["format"] == FORMAT and (folder / "vocabulary.json").is_file()


def _digest(config: DataConfig, source: Source) -> str:
    how = [FORMAT, config.tokens, config.vocabulary_size, config.validation_fraction]
    return hashlib.sha256(json.dumps([how, source.identity]).encode()).hexdigest()[:20]


def _cache() -> Path:
    folder = cache_folder()
    try:
        make_cache(folder)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "not writable")
    except OSError as error:
        raise UserError(
            "HPCTRAIN_CACHE", folder, f"must be a folder that you can write to ({error.strerror})"
        ) from None
    return folder


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """A full disk, or one that fails, under its own name."""
    try:
        yield
    except OSError as error:
        raise storage_failure(error, f"tokens in {folder}") from None


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """One process of this machine at a time; False if the file system knows no locks."""
    with lock_file(path) as file:
        locked = False
        with contextlib.suppress(OSError):
            if file is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
                locked = True
        yield locked


def _publish(draft: Path, folder: Path) -> None:
    try:
        draft.rename(folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        raise FileExistsError from None  # the same text, from another machine


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _say(text: str) -> None:
    print(f"hpctrain: {text}", file=sys.stderr, flush=True)
