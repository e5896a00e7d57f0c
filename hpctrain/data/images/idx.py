"""MNIST's IDX format: a header (0, 0, type 8, number of dimensions), big-endian sizes, bytes; plain or gzipped.

Takes a path, returns a uint8 array. Format: LeCun's MNIST page, "the IDX file format". Reads only.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpctrain.errors import UserError


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Returns the whole array. Raises UserError if the file is truncated or is not IDX of unsigned bytes."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError("data.path", path, f"cannot be read whole: {error}") from None
    shape = _shape(data[: 4 + 4 * 4])
    if shape is None:
        raise UserError("data.path", path, "is not an IDX file of unsigned bytes")
    body = data[4 + 4 * len(shape) :]
    if len(body) != math.prod(shape):
        raise UserError(
            "data.path", path, f"holds {len(body)} bytes of data, its header says {math.prod(shape)}"
        )
    return np.frombuffer(body, np.uint8).reshape(shape)


def read_shape(path: Path) -> tuple[int, ...]:
    """Returns the sizes in a file's header without reading the rest. Raises UserError, also if it is truncated."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            shape = _shape(file.read(4 + 4 * 4))
        size = _whole_size(path)
    except PermissionError:
        raise
    except (OSError, EOFError, zlib.error) as error:
        raise UserError("data.path", path, f"cannot be read: {error}") from None
    if shape is None:
        raise UserError("data.path", path, "is not an IDX file of unsigned bytes")
    expected = 4 + 4 * len(shape) + math.prod(shape)
    if size != expected % 2**32:
        raise UserError(
            "data.path", path, f"is truncated or broken: {size} bytes, its header says {expected}"
        )
    return shape


def _whole_size(path: Path) -> int:
    """Returns the unpacked size in bytes, modulo 2^32: a gzip file ends with it (RFC 1952, ISIZE)."""
    with path.open("rb") as file:
        if path.suffix != ".gz":
            return file.seek(0, 2) % 2**32
        file.seek(-4, 2)
        return int.from_bytes(file.read(4), "little")


def _shape(header: bytes) -> tuple[int, ...] | None:
    if len(header) < 8 or header[:3] != b"\0\0\x08" or not 1 <= header[3] <= 4:
        return None
    sizes = header[4 : 4 + 4 * header[3]]
    if len(sizes) < 4 * header[3]:
        return None
    return tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, len(sizes), 4))
