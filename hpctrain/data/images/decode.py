"""Reads encoded pictures (JPEG, PNG, ...) and decodes them into arrays. NumPy and Pillow only, no torch.

Takes keys (a path, or a row of Arrow files), returns uint8 (H, W, C): C channels, H and W pixels. Reads only.
The decoding processes import it (data/images/workers.py), so it must import quickly. A broken picture raises a
UserError that names the file; in a packed set, the shard and the picture.
"""

from __future__ import annotations

import io
import math
import os
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hpctrain.errors import UserError

Key = str | int
Name = tuple[str, str]  # the folder, and the file or picture in it
Box = tuple[float, float, float, float]  # left, upper, right, lower; pixels of the whole picture
CROP_TRIES = 10


class Reader(Protocol):
    """Where encoded pictures come from."""

    def read(self, key: Key) -> tuple[Any, Name]:
        """Returns the bytes, as anything with the buffer protocol, and the picture's name for messages."""
        ...


@dataclass(frozen=True)
class Folder:
    """Pictures in files of their own; the key is the path relative to `root`."""

    root: str = ""

    def read(self, key: Key) -> tuple[Any, Name]:
        """Returns a file's bytes and its name for messages. Raises UserError."""
        name = self.root, str(key)
        try:
            with open(os.path.join(*name), "rb") as file:  # noqa: PTH118, PTH123 -- twice as fast as pathlib
                return file.read(), name
        except OSError as error:
            said = f"{key} cannot be read: {error.strerror or error}"
            raise UserError("data.path", self.root, said) from None


@dataclass
class Arrow:
    """Pictures in memory-mapped Arrow files; the key is the row, counted across all files.

    Column `image` is a struct of `bytes` and `path` (Hugging Face's Image), or plain binary. If there is a column
    `crc32`, each picture is checked against it.
    """

    files: Sequence[str]
    image: str = "image"
    _tables: list[Any] = field(default_factory=list, init=False, repr=False)
    _starts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64), init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files, "image": self.image}  # another process maps the files itself

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def open(self) -> None:
        """Maps the files. Raises UserError, naming the first that is not a complete Arrow file."""
        if self._tables:
            return
        self._tables = [open_table(Path(file)) for file in self.files]
        self._starts = np.cumsum([0, *(len(table) for table in self._tables)])

    def __len__(self) -> int:
        self.open()
        return int(self._starts[-1])

    def column(self, name: str) -> NDArray[Any]:
        """Returns a numeric column of all files, (rows,). Raises UserError."""
        self.open()
        return np.concatenate([table.column(name).to_numpy() for table in self._tables])

    def read(self, key: Key) -> tuple[Any, Name]:
        """Returns a picture's bytes as a buffer, and its name for messages. Raises UserError."""
        self.open()
        at = int(np.searchsorted(self._starts, int(key), side="right")) - 1
        table, row = self._tables[at], int(key) - int(self._starts[at])
        cell = table.column(self.image)[row]
        data, path = (cell["bytes"], cell["path"].as_py()) if hasattr(cell, "keys") else (cell, None)
        if not data.is_valid and path:
            return Folder().read(path)
        if not data.is_valid:
            root, file = os.path.split(self.files[at])
            raise UserError("data.image_field", self.image, f"row {row} of {file} in {root} holds no picture")
        buffer = data.as_buffer()
        root, file = os.path.split(self.files[at])
        if "crc32" in table.column_names and zlib.crc32(buffer) != table.column("crc32")[row].as_py():
            said = f"{file} is broken: picture {row} ({path}) is not what was packed; pack the set again"
            raise UserError("data.path", root, said)
        return buffer, (root, f"{file}, picture {row} ({path}),")


def open_table(path: Path) -> Any:
    """Returns an Arrow table whose bytes stay on disk until they are read. Raises UserError."""
    import pyarrow as pa

    try:
        mapped = pa.memory_map(str(path))
        try:
            return pa.ipc.open_file(mapped).read_all()
        except pa.ArrowInvalid:  # Hugging Face writes streams
            mapped.seek(0)
            return pa.ipc.open_stream(mapped).read_all()
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            "data.path", path.parent, f"{path.name} is not a whole Arrow file: {reason}"
        ) from None


@dataclass(frozen=True)
class Decoding:
    """How a picture becomes pixels of `shape` (C, H, W).

    Its shorter side becomes `resize` and the centre is cut out; with a random crop, the crop becomes H x W.
    """

    shape: tuple[int, int, int]
    resize: int
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)

    def decode(
        self, data: Any, name: Name, draw: tuple[int, ...] | None, size: int | None
    ) -> NDArray[np.uint8]:
        """Returns (H, W, C), or (size, size, C). `draw` seeds a random crop; None: the centre. Raises UserError."""
        c, h, w = self.shape
        h, w = (h, w) if size is None else (size, size)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about odd metadata; the pixels are good
                image = Image.open(io.BytesIO(data))
                box = self._middle(image.size) if draw is None else self._crop(image.size, draw)
                return _pixels(image, "L" if c == 1 else "RGB", box, (w, h))
        except Exception as error:
            raise broken(name, error) from None

    def _middle(self, size: tuple[int, int]) -> Box:
        """Returns the part that is left if the shorter side becomes `resize` and H x W is cut from the centre."""
        width, height = size
        _, h, w = self.shape
        pixel = min(min(width, height) / self.resize, width / w, height / h)
        left, upper = (width - w * pixel) / 2, (height - h * pixel) / 2
        return left, upper, left + w * pixel, upper + h * pixel

    def _crop(self, size: tuple[int, int], draw: tuple[int, ...]) -> Box:
        """Returns a part of random area and aspect ratio (Szegedy et al. 2014, arXiv:1409.4842, section 6).

        If none of CROP_TRIES draws fits into the picture, returns the largest part in its centre, as torchvision does.
        """
        width, height = size
        random = np.random.default_rng(draw)
        low, high = map(math.log, self.crop_ratio)
        for _ in range(CROP_TRIES):
            area = width * height * random.uniform(*self.crop_scale)
            ratio = math.exp(random.uniform(low, high))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, upper = int(random.integers(width - w + 1)), int(random.integers(height - h + 1))
                return left, upper, left + w, upper + h
        ratio = min(max(width / height, self.crop_ratio[0]), self.crop_ratio[1])
        w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
        left, upper = (width - w) // 2, (height - h) // 2
        return left, upper, left + w, upper + h


def broken(name: Name, error: Exception) -> UserError:
    """Returns the UserError for a picture that cannot be decoded, whatever kind of error Pillow's plugin raised."""
    reason = " ".join(f"{error}".split())[:120] or type(error).__name__
    return UserError("data.path", name[0], f"{name[1]} is not a whole picture: {reason}")


def as_bytes(image: Image.Image) -> Image.Image:
    """Returns a picture whose pixels have 8 bits per channel: 16-bit greys are scaled, where Pillow would cut them off.

    Raises ValueError for pixels whose range nobody knows.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return Image.fromarray(np.round(np.asarray(image).astype(np.float32) / 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise ValueError(f"{kind} pixels, of which nobody knows the range: convert it to 8 or 16 bits")
    return image


def _pixels(image: Image.Image, mode: str, box: Box, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Returns the part `box` of `image`, resized to `size` (width, height): (height, width, channels)."""
    width, height = image.size
    # A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as that is not smaller than wanted.
    wanted = (width * size[0] / (box[2] - box[0]), height * size[1] / (box[3] - box[1]))
    image.draft(mode, (math.ceil(wanted[0]), math.ceil(wanted[1])))
    x, y = image.size[0] / width, image.size[1] / height
    box = (box[0] * x, box[1] * y, min(box[2] * x, image.size[0]), min(box[3] * y, image.size[1]))
    if image.mode != mode:
        image = as_bytes(image).convert(mode)
    if box != (0, 0, *size) or image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR, box=box)
    return np.asarray(image, np.uint8).reshape(size[1], size[0], -1)
