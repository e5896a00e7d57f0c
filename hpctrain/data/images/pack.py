"""Packs a folder of pictures into a few large Arrow files; `verify` checks these against their digests.

Takes train/<class>/* and val/<class>/*; writes PACKED/<split>-<n>.arrow and pack.json, all or nothing: the folder
gets its name when it is complete. The pictures stay as they are (or, with --resize, become smaller JPEGs); each is
decoded once, so that a broken one is named now and not in mid-training. The files are in Arrow's IPC format with
Hugging Face's features, so that `datasets` can read them too. Needs the extra `images`; imports no torch.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from hpctrain.data.images import sets
from hpctrain.data.images.decode import as_bytes, broken
from hpctrain.data.images.sets import MANIFEST, Manifest, Shard, Split
from hpctrain.errors import UserError

BATCH_BYTES = 2**24  # per record batch, which is held in memory until it is written
QUALITY = 92  # of the JPEGs that --resize writes
AHEAD = 4  # pictures queued per thread

# (a split's name, its pictures, their number) to the same pictures, for instance with a progress bar.
Track = Callable[[str, Iterator[Any], int], Iterator[Any]]


def pack(folder: Path, into: Path, resize: int | None, shard_mb: int, track: Track) -> Manifest:
    """Packs a folder of pictures into a new one; returns its manifest. Raises UserError, naming a broken picture."""
    for key, value in (("--resize", resize), ("--shard-mb", shard_mb)):
        if value is not None and value < 1:
            raise UserError(key, value, "must be ≥ 1")
    if not folder.is_dir():
        raise UserError("folder", folder, "is not a folder")
    if (folder / MANIFEST).exists():
        raise UserError("folder", folder, "is packed already")
    if into.exists():
        raise UserError("--into", into, "is there already: name a new folder")
    return write(folder, into, resize, shard_mb * 10**6, track)


def verify(folder: Path) -> Manifest:
    """Checks every shard against its digest; returns the manifest. Raises UserError for the first that differs."""
    manifest = sets.read_manifest(folder)
    sets.check_shards(folder, manifest)
    shards = [shard for split in manifest.splits.values() for shard in split]
    with ThreadPoolExecutor(_threads()) as pool:
        digests = pool.map(lambda shard: _sha256(folder / shard.file), shards)
        for shard, digest in zip(shards, digests, strict=True):
            if digest != shard.sha256:
                said = f"{shard.file} is broken: its bytes are not those that were packed; pack the set again"
                raise UserError("data.path", folder, said)
    return manifest


def write(
    folder: Path,
    into: Path,
    resize: int | None,
    shard_bytes: int,
    track: Track = lambda name, these, total: these,
) -> Manifest:
    """Writes the packed set; returns its manifest. Raises UserError, naming a picture that is broken."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError("pack", folder, sets.EXTRA) from None
    loose = sets.of_folder(folder)
    try:
        into.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=into.parent, prefix=f".{into.name}.", suffix=".part"))
        draft.chmod(into.parent.stat().st_mode & 0o777)
    except OSError as error:
        raise UserError("--into", into, f"cannot be written: {error.strerror or error}") from None
    try:
        splits = {
            name: tuple(_shards(draft, name, split, loose.classes, resize, shard_bytes, track))
            for name, split in (("train", loose.train), ("validation", loose.validation))
        }
        manifest = Manifest(1, loose.classes, splits, resize)
        with (draft / MANIFEST).open("w") as file:
            json.dump(asdict(manifest), file)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(into)
    except OSError as error:
        raise UserError("--into", into, f"cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return manifest


def _shards(
    folder: Path,
    name: str,
    split: Split,
    classes: Sequence[str],
    resize: int | None,
    shard_bytes: int,
    track: Track,
) -> Iterator[Shard]:
    import pyarrow as pa

    schema = _schema(classes)
    pictures = track(name, _read(split, resize), len(split.keys))
    picture = next(pictures, None)
    number = 0
    while picture is not None:
        path = folder / f"{name}-{number:05d}.arrow"
        written, samples = 0, 0
        with path.open("wb") as file:
            with pa.ipc.new_file(file, schema) as out:
                while picture is not None and written < shard_bytes:
                    rows: list[tuple[bytes, str, int]] = []
                    size = 0
                    while picture is not None and size < min(BATCH_BYTES, shard_bytes):
                        rows.append(picture)
                        size += len(picture[0])
                        picture = next(pictures, None)
                    out.write_batch(_batch(rows, schema))
                    written, samples = written + size, samples + len(rows)
            file.flush()
            os.fsync(file.fileno())
        yield Shard(path.name, samples, path.stat().st_size, _sha256(path))
        number += 1


def _schema(classes: Sequence[str]) -> Any:
    """Returns the columns, with metadata that describes them to Hugging Face's library."""
    import pyarrow as pa

    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(classes), "_type": "ClassLabel"},
        "crc32": {"dtype": "uint32", "_type": "Value"},
    }
    return pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("label", pa.int64()),
            ("crc32", pa.uint32()),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )


def _batch(rows: list[tuple[bytes, str, int]], schema: Any) -> Any:
    import pyarrow as pa

    columns = {
        "image": [{"bytes": data, "path": path} for data, path, _ in rows],
        "label": [label for _, _, label in rows],
        "crc32": [zlib.crc32(data) for data, _, _ in rows],
    }
    return pa.record_batch(
        [pa.array(values, schema.field(name).type) for name, values in columns.items()], schema=schema
    )


def _read(split: Split, resize: int | None) -> Iterator[tuple[bytes, str, int]]:
    """Yields each picture's bytes, path and class, in order; several threads read and decode ahead."""
    pool = ThreadPoolExecutor(_threads())
    waiting: deque[tuple[Future[bytes], str, int]] = deque()
    try:
        for key, label in zip(split.keys, split.labels.tolist(), strict=True):
            waiting.append((pool.submit(_checked, split, key, resize), str(key), label))
            if len(waiting) > AHEAD * _threads():
                data, path, number = waiting.popleft()
                yield data.result(), path, number
        for data, path, number in waiting:
            yield data.result(), path, number
    finally:
        pool.shutdown(cancel_futures=True)


def _checked(split: Split, key: Any, resize: int | None) -> bytes:
    """Returns a picture's bytes, as a smaller JPEG if its shorter side exceeds `resize`.

    Raises UserError if it is broken.
    """
    data, name = split.reader.read(key)
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        if resize is not None and min(image.size) > resize:
            image.draft("RGB", (resize, resize))
            width, height = (max(resize, round(side * resize / min(image.size))) for side in image.size)
            image = as_bytes(image)
            smaller = image.convert("L" if image.mode in ("1", "L") else "RGB").resize(
                (width, height), Image.Resampling.BICUBIC
            )
            out = io.BytesIO()
            smaller.save(out, "JPEG", quality=QUALITY)
            return out.getvalue()
        image.load()
    except Exception as error:
        raise broken(name, error) from None
    return bytes(data)


def _threads() -> int:
    return len(os.sched_getaffinity(0))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
