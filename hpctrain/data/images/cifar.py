"""CIFAR-10's binary version: records of one label byte and 3072 bytes, the red, green and blue plane.

Takes paths, returns uint8 arrays. Format: https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version". The
page's Python version is not read: it consists of pickles, and loading a pickle can run any code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpctrain.data.downloads import CIFAR10_RECORD_BYTES
from hpctrain.errors import UserError


def records(path: Path) -> int:
    """Returns the number of pictures in a file. Raises UserError if its size is not a multiple of a record's."""
    count, rest = divmod(path.stat().st_size, CIFAR10_RECORD_BYTES)
    if rest:
        raise UserError("data.path", path, f"is truncated or no CIFAR-10 file: {rest} bytes too many")
    return count


def read_cifar(paths: Sequence[Path]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Returns images (N, 3, 32, 32) and labels (N,) of all files in order. Raises UserError."""
    parts = []
    for path in paths:
        records(path)
        parts.append(np.fromfile(path, np.uint8).reshape(-1, CIFAR10_RECORD_BYTES))
    rows = np.concatenate(parts)
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]
