"""Text as token numbers in memory-mapped files, made once and kept in the user's cache.

    <cache>/tokens/<name>-<digest>/   train.bin, validation.bin (little-endian uint16, or uint32 above 2^16
                                      tokens), vocabulary.json, meta.json

Takes a DataConfig; returns `Tokens`. The digest covers the text's identity (names, sizes, times) and how it is
tokenised. A folder is published by one rename, so a reader sees all of it or nothing; of several processes on a
machine, one works and the others wait. Memory stays at a few blocks, whatever the text's size.
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
DEFAULT_SIZES = {"word": 10_000, "bpe": 4096}  # if the user sets no size; fewer words if the text has fewer
SAY_FROM_BYTES = 20 * 2**20  # texts of this size take long enough for a progress message


@dataclass(frozen=True)
class Tokens:
    """Memory-mapped token numbers of both splits."""

    train: NDArray[Any]
    validation: NDArray[Any]
    vocabulary: Vocabulary


def load(config: DataConfig) -> Tokens:
    """Returns the cached tokens; tokenises the text if needed. Raises UserError if text or vocabulary is unusable."""
    folder = _prepared(config)
    meta = json.loads((folder / "meta.json").read_text())
    words = vocabularies.from_json(json.loads((folder / "vocabulary.json").read_text()))
    train, validation = (
        np.memmap(folder / f"{split}.bin", meta["dtype"], "r", shape=(meta[split],)) for split in SPLITS
    )
    return Tokens(train, validation, words)


def counts(config: DataConfig) -> dict[str, int]:
    """Returns the number of tokens in each split without reading them; tokenises the text if needed."""
    meta = json.loads((_prepared(config) / "meta.json").read_text())
    return {split: meta[split] for split in SPLITS}


def vocabulary_size(config: DataConfig) -> int:
    """Returns the `data.vocabulary_size` that the text determines if the user sets none. Raises UserError."""
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
    """Returns the folder of this text's tokens, complete; tokenises the text if needed."""
    source = find_source(config)
    parent, digest = _cache(), _digest(config, source)
    folder = parent / f"{config.name}-{digest}"
    if _is_whole(folder):
        return folder
    with _writing(parent), _lock(parent / f".{digest}.lock") as locked:
        if _is_whole(folder):  # another process made it while we waited
            return folder
        prefix = f".new.{digest}."
        if locked:  # the processes that left these have ended
            for left in parent.glob(f"{prefix}*"):
                shutil.rmtree(left, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        try:
            _tokenise(config, source, draft)
            if find_source(config).identity != source.identity:
                raise UserError("data.path", config.path, "changed while it was read")
            if folder.exists():
                shutil.rmtree(folder)  # damaged: a complete one would have been returned
            open_as(parent, draft)
            with contextlib.suppress(FileExistsError):
                _publish(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder


def _tokenise(config: DataConfig, source: Source, draft: Path) -> None:
    """Writes the four files. The vocabulary is learned from the training text."""
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
    """Returns whether every file exists and has the length recorded in meta.json."""
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
    """Turns an OSError, such as a full disk, into the RunFailed that names it."""
    try:
        yield
    except OSError as error:
        raise storage_failure(error, f"tokens in {folder}") from None


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Lets in one process of this machine at a time; yields False if the file cannot be locked."""
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
        raise FileExistsError from None  # another machine published the same text


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _say(text: str) -> None:
    print(f"hpctrain: {text}", file=sys.stderr, flush=True)
