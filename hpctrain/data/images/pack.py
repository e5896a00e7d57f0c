"""`hpctrain data pack FOLDER --into PACKED`: a folder of pictures as a few large Arrow files; `verify` reads them.

Takes train/<class>/* and val/<class>/*; writes PACKED/<split>-<n>.arrow and pack.json, all or nothing: the folder
gets its name when it is whole. The pictures stay as they are (or, with --resize, become smaller JPEGs); each is
decoded once, so that a broken one is named now and not in mid-training. The files are Arrow's IPC format with
Hugging Face's features, so that `datasets` reads them too. Needs the extra `images`; imports no torch.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from hpctrain.data.images import sets
from hpctrain.data.images.decode import broken
from hpctrain.data.images.sets import MANIFEST, Manifest, Shard, Split
from hpctrain.errors import UserError

SHARD_MB = 512
BATCH_BYTES = 2**24  # of one record batch: what is held in memory before it is written
QUALITY = 92  # of JPEGs that --resize writes
AHEAD = 4  # pictures in hand for each thread


def pack(argv: list[str]) -> int:
    """`hpctrain data pack FOLDER --into PACKED [--resize PIXELS] [--shard-mb MB] [--json]`."""
    parser = argparse.ArgumentParser(
        prog="hpctrain data pack", description="a few large files of many pictures"
    )
    parser.add_argument("folder", type=Path, help="has train/<class>/* and val/<class>/*")
    parser.add_argument("--into", type=Path, required=True, help="the packed set, a new folder")
    parser.add_argument("--resize", type=int, help="make the shorter side so many pixels, where it is longer")
    parser.add_argument(
        "--shard-mb", type=int, default=SHARD_MB, help=f"size of a file (default: {SHARD_MB})"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    args = parser.parse_args(argv)
    for key, value in (("--resize", args.resize), ("--shard-mb", args.shard_mb)):
        if value is not None and value < 1:
            raise UserError(key, value, "must be ≥ 1")
    if not args.folder.is_dir():
        raise UserError("folder", args.folder, "is not a folder")
    if (args.folder / MANIFEST).exists():
        raise UserError("folder", args.folder, "is packed already")
    if args.into.exists():
        raise UserError("--into", args.into, "is there already: name a new folder")
    manifest = write(args.folder, args.into, args.resize, args.shard_mb * 10**6)
    _say(manifest, args.into, args.json)
    return 0


def verify(argv: list[str]) -> int:
    """`hpctrain data verify PACKED [--json]`: compare every shard with its digest. Raises UserError for the first."""
    parser = argparse.ArgumentParser(
        prog="hpctrain data verify", description="is a packed set as it was packed?"
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    args = parser.parse_args(argv)
    manifest = sets.read_manifest(args.folder)
    sets.check_shards(args.folder, manifest)
    shards = [shard for split in manifest.splits.values() for shard in split]
    with ThreadPoolExecutor(_threads()) as pool:
        digests = pool.map(lambda shard: _sha256(args.folder / shard.file), shards)
        for shard, digest in zip(shards, digests, strict=True):
            if digest != shard.sha256:
                said = f"{shard.file} is broken: its bytes are not those that were packed; pack the set again"
                raise UserError("data.path", args.folder, said)
    _say(manifest, args.folder, args.json)
    return 0


def _say(manifest: Manifest, folder: Path, as_json: bool) -> None:
    splits = {
        name: {
            "samples": manifest.samples(name), "shards": len(shards), "bytes": sum(s.bytes for s in shards)
        }
        for name, shards in manifest.splits.items()
    }  # fmt: skip
    if as_json:
        print(json.dumps({"folder": str(folder), "classes": len(manifest.classes), "splits": splits}))
        return
    for name, what in splits.items():
        size = f"{what['bytes'] / 1e6:,.1f} MB in {what['shards']} file{'s' if what['shards'] > 1 else ''}"
        print(f"{name:12}{what['samples']:>10,} pictures  {size}")
    print(f"{len(manifest.classes)} classes; use it: data=image_folder data.path={folder}")


def write(folder: Path, into: Path, resize: int | None, shard_bytes: int) -> Manifest:
    """Raises UserError, naming a picture that is broken."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError("pack", folder, sets.EXTRA) from None
    found = sets.of_folder(folder)
    try:
        into.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=into.parent, prefix=f".{into.name}.", suffix=".part"))
        draft.chmod(into.parent.stat().st_mode & 0o777)
    except OSError as error:
        raise UserError("--into", into, f"cannot be written: {error.strerror or error}") from None
    try:
        splits = {
            name: tuple(_shards(draft, name, split, found.classes, resize, shard_bytes))
            for name, split in (("train", found.train), ("validation", found.validation))
        }
        manifest = Manifest(1, found.classes, splits, resize)
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
    folder: Path, name: str, split: Split, classes: Sequence[str], resize: int | None, shard_bytes: int
) -> Iterator[Shard]:
    import pyarrow as pa

    schema = _schema(classes)
    pictures = _progress(name, _read(split, resize), len(split.keys))
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
    """Columns, and in the metadata what they mean to Hugging Face's library."""
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
    """Each picture's bytes, path and class, in order; several threads read and decode ahead."""
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
    """A picture's bytes, smaller where asked for. Raises UserError where it is broken."""
    data, name = split.reader.read(key)
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        if resize is not None and min(image.size) > resize:
            image.draft("RGB", (resize, resize))
            width, height = (max(resize, round(side * resize / min(image.size))) for side in image.size)
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


def _progress(name: str, pictures: Iterator[Any], total: int) -> Iterator[Any]:
    """On a terminal, a bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        print(f"packing {total:,} pictures for {name}", file=sys.stderr, flush=True)
        yield from pictures
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        yield from bar.track(pictures, total, description=name)


def _threads() -> int:
    return len(os.sched_getaffinity(0))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
