"""Checkpoints on shared storage: committed whole or not at all, verified before use, pruned with care.

    checkpoints/
      step_<step>.t<term>-<save>/   one checkpoint; its term (storage/lock.py) and save number fence it
        tensors.safetensors         or tensors-<i>-of-<n>.safetensors, if n ranks wrote it together
        meta.json                   step, epoch, samples, sampler, schedule, world size, attempt, metric ...
        manifest.json               size and SHA-256 of each file, and of itself
      terms/<n>.json                who may write, and from which step each term's work counts
      latest                        the name of the newest: a hint for people
      broken.*, .draft.*            put aside by a reader; not committed, or about to be deleted

The commit protocol: 1 make a draft folder on the same file system; 2 write each file and fsync it; 3 fsync the draft
folder; 4 check that no later term was taken; 5 rename the draft to its final name; 6 fsync the parent; 7 replace
`latest`; 8 delete what retention does not keep: rename to a draft, fsync, remove. A crash before 5 leaves a draft,
which readers ignore; from 6 on the checkpoint survives a power failure if the file system honours fsync. A later term
may be taken between 4 and 5, so readers ignore what a term wrote beyond the step at which a later term began. No pickle
anywhere, and no torch here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import os
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from hpctrain.errors import Unusable
from hpctrain.storage import lock
from hpctrain.storage.files import (
    CHUNK_BYTES,
    Files,
    open_regular,
    remove_tree,
    replace_file,
    seal,
    unseal,
    write_file,
)

_NAME = re.compile(r"step_(\d{9,18})\.t(\d{1,9})-(\d{1,9})")
_TENSORS = re.compile(r"tensors(-\d{5}-of-\d{5})?\.safetensors")
_MAX_MANIFEST_BYTES = 4 * 2**20  # about 20,000 ranks' parts
_MAX_META_BYTES = 64 * 2**20
_MEMORY_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
_Count = Annotated[int, Ge(0)]


class CorruptCheckpoint(Unusable):
    """The files of a committed checkpoint are not what its manifest says. The message names the file."""


class Unreadable(CorruptCheckpoint):
    """The checkpoint cannot be read, perhaps only for the moment, so it is not put aside."""


@dataclass(frozen=True, order=True)
class Entry:
    """The name of a committed checkpoint; the newest is the greatest."""

    step: int
    term: int
    save: int

    @property
    def name(self) -> str:
        """The folder's name."""
        return f"step_{self.step:09d}.t{self.term}-{self.save}"


@dataclass(frozen=True)
class FileRecord:
    """Size and digest of one file."""

    bytes: _Count
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Manifest:
    """Which checkpoint this is, and its files except the manifest."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    format: Literal[1]
    step: _Count
    term: _Count
    save: _Count
    files: dict[str, FileRecord]


@dataclass(frozen=True)
class Meta:
    """The keys of meta.json that every checkpoint has; a run adds its own."""

    step: _Count
    epoch: float
    samples: _Count
    world_size: Annotated[int, Ge(1)]
    attempt: _Count
    metric: float | None = None


_MANIFEST = TypeAdapter(Manifest)
_META = TypeAdapter(Meta)


def parse(name: str) -> Entry | None:
    """Returns the entry with this name, or None if it is not a checkpoint's name."""
    match = _NAME.fullmatch(name)
    return Entry(*map(int, match.groups())) if match else None


def entries(folder: Path) -> list[Entry]:
    """Returns the committed checkpoints, the newest last, without those that are superseded."""
    return _split(folder)[0]


def superseded(folder: Path) -> list[Entry]:
    """Returns the checkpoints committed beyond the step at which a later attempt had begun; readers ignore them."""
    return _split(folder)[1]


def _split(folder: Path) -> tuple[list[Entry], list[Entry]]:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    committed = sorted(entry for entry in map(parse, names) if entry)
    begun = {n: owner.step for n, owner in lock.owners(folder).items() if owner.step is not None}
    stands = [all(e.step <= step for term, step in begun.items() if term > e.term) for e in committed]
    return list(compress(committed, stands)), [
        e for e, good in zip(committed, stands, strict=True) if not good
    ]


def had_some(folder: Path) -> bool:
    """Returns whether a checkpoint was ever committed here, by `latest`, broken ones, and terms that began from one."""
    begun = any(owner.step for owner in lock.owners(folder).values())
    return begun or (folder / "latest").exists() or any(folder.glob("broken.*"))


def publish(
    draft: Path, entry: Entry, parts: Mapping[str, FileRecord], meta: Mapping[str, Any], term: lock.Term
) -> None:
    """Do steps 2 to 7 of the protocol, for a draft that holds `parts` already.

    Raises OSError, or RunFailed if a later attempt has taken over.
    """
    files = term.files
    content = json.dumps(meta, indent=1).encode()
    _META.validate_json(content, strict=True)
    written = FileRecord(*write_file(draft / "meta.json", pieces(content), files))
    manifest = Manifest(1, entry.step, entry.term, entry.save, {**parts, "meta.json": written})
    write_file(draft / "manifest.json", pieces(seal(dataclasses.asdict(manifest))), files)
    files.sync_folder(draft)
    term.confirm()
    final = draft.parent / entry.name
    files.rename(draft, final)
    files.sync_folder(final.parent)
    replace_file(final.parent / "latest", entry.name.encode(), files)


def pieces(data: bytes | bytearray | memoryview) -> Iterable[memoryview]:
    """Returns `data` in chunks of CHUNK_BYTES."""
    view = memoryview(data)
    return (view[at : at + CHUNK_BYTES] for at in range(0, len(view), CHUNK_BYTES))


def read_manifest(folder: Path, entry: Entry) -> Manifest:
    """Returns the manifest of a checkpoint. Raises CorruptCheckpoint unless its folder has exactly these files."""
    path = folder / entry.name
    try:
        manifest = _MANIFEST.validate_python(unseal(_read_whole(path / "manifest.json")))
        names = {child.name for child in path.iterdir() if not child.name.startswith(".")}
    except OSError as error:
        raise _trouble(f"{entry.name}/manifest.json", error) from None
    except (ValueError, ValidationError) as error:
        raise CorruptCheckpoint(f"{entry.name}/manifest.json: {_first_line(error)}") from None
    if (manifest.step, manifest.term, manifest.save) != dataclasses.astuple(entry):
        raise CorruptCheckpoint(f"{entry.name}/manifest.json belongs to another checkpoint")
    for name in sorted((names - {"manifest.json"}) ^ manifest.files.keys()):
        missing = "is missing" if name in manifest.files else "is not in the manifest"
        raise CorruptCheckpoint(f"{entry.name}/{name} {missing}")
    for name in manifest.files:
        if name != "meta.json" and not _TENSORS.fullmatch(name):
            raise CorruptCheckpoint(f"{entry.name}/{name!r} is not a file of a checkpoint")
    if "meta.json" not in manifest.files:
        raise CorruptCheckpoint(f"{entry.name}/meta.json is missing")
    if manifest.files["meta.json"].bytes > _MAX_META_BYTES:
        raise CorruptCheckpoint(f"{entry.name}/meta.json has more than {_MAX_META_BYTES} bytes")
    if (size := sum(record.bytes for record in manifest.files.values())) > _MEMORY_BYTES:
        raise Unreadable(f"{entry.name} has {size} bytes, more than this machine's memory")
    return manifest


def read_file(folder: Path, entry: Entry, name: str, record: FileRecord, keep: bool = True) -> bytearray:
    """Returns the content of one file, read once and compared with its record; without `keep` it is only compared.

    Raises CorruptCheckpoint, or Unreadable if the storage returns an error. Memory is allocated only after the
    size of the file has been compared with the record.
    """
    where, digest = f"{entry.name}/{name}", hashlib.sha256()
    try:
        with os.fdopen(open_regular(folder / entry.name / name), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size != record.bytes:
                raise CorruptCheckpoint(f"{where} has {size} bytes, not {record.bytes}")
            content = bytearray(size if keep else min(size, CHUNK_BYTES))
            view, at = memoryview(content), 0
            while at < size:
                place = view[at : at + CHUNK_BYTES] if keep else view
                count = file.readinto(place)
                if not count:
                    break
                digest.update(place[:count])
                at += count
    except OSError as error:
        raise _trouble(where, error) from None
    if digest.hexdigest() != record.sha256:
        raise CorruptCheckpoint(f"{where} does not have the SHA-256 of its manifest")
    return content


def read_document(folder: Path, entry: Entry, manifest: Manifest) -> tuple[Meta, dict[str, Any]]:
    """Returns (the checked keys that every checkpoint has, all of meta.json). Raises CorruptCheckpoint."""
    try:
        content = read_file(folder, entry, "meta.json", manifest.files["meta.json"])
        document = json.loads(content)
        meta = _META.validate_json(content, strict=True)
    except (ValueError, RecursionError, ValidationError) as error:
        raise CorruptCheckpoint(f"{entry.name}/meta.json: {_first_line(error)}") from None
    if meta.step != entry.step:
        raise CorruptCheckpoint(f"{entry.name}/meta.json is of step {meta.step}")
    return meta, document


def read_meta(folder: Path, entry: Entry) -> Meta:
    """Returns the keys of meta.json that every checkpoint has. Raises CorruptCheckpoint."""
    return read_document(folder, entry, read_manifest(folder, entry))[0]


def verify(folder: Path, entry: Entry, tick: Callable[[int], None] = lambda size_bytes: None) -> Meta:
    """Verify every file of a checkpoint. Returns its meta. `tick` is called with the size of each file in bytes.

    Raises CorruptCheckpoint.
    """
    manifest = read_manifest(folder, entry)
    for name, record in manifest.files.items():
        read_file(folder, entry, name, record, keep=False)
        tick(record.bytes)
    return read_document(folder, entry, manifest)[0]


def put_aside(folder: Path, entry: Entry, files: Files) -> None:
    """Rename a broken checkpoint, so that readers ignore it but a person can still inspect it."""
    files.rename(folder / entry.name, folder / f"broken.{entry.name}.{uuid.uuid4().hex[:8]}")
    files.sync_folder(folder)


def delete(folder: Path, entry: Entry, files: Files) -> None:
    """Do step 8 of the protocol. A crash leaves the whole checkpoint, or a draft."""
    doomed = folder / f".draft.old.{entry.name}.{uuid.uuid4().hex[:8]}"
    files.rename(folder / entry.name, doomed)
    files.sync_folder(folder)
    remove_tree(doomed, files)


def sweep(folder: Path, files: Files) -> None:
    """Delete the drafts that earlier attempts left. Only the owner of the newest term may call it."""
    for draft in folder.glob(".draft.*"):
        with contextlib.suppress(OSError):
            remove_tree(draft, files)


def metric_of(meta: Meta) -> float | None:
    """Returns the metric of a checkpoint (smaller is better); None if it is missing or not finite."""
    return meta.metric if meta.metric is not None and math.isfinite(meta.metric) else None


def _read_whole(path: Path) -> bytes:
    """Returns the first _MAX_MANIFEST_BYTES bytes of a file."""
    with os.fdopen(open_regular(path), "rb") as file:
        return file.read(_MAX_MANIFEST_BYTES)


def _trouble(where: str, error: OSError) -> CorruptCheckpoint:
    if error.errno in (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP):
        return CorruptCheckpoint(f"{where}: {error.strerror or error}")
    return Unreadable(f"{where} cannot be read: {error.strerror}")


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error).splitlines()[0]
