"""Small files that are read and replaced whole: a reader, or a crash, sees the old text or the new. No torch."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any


def replace_text(path: Path, text: str) -> None:
    """Writes a file so that a reader, or a crash, sees the old text or the new, never a part. Raises OSError."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def read_json(path: Path) -> dict[str, Any] | None:
    """Returns the JSON object in a file; None if the file is missing or does not hold one."""
    return read_json_and_time(path)[0]


def read_json_and_time(path: Path) -> tuple[dict[str, Any] | None, float | None]:
    """Returns the JSON object in a file and when it was written, on the clock of `clock_of`; else (None, None)."""
    try:
        with path.open("rb", buffering=0) as file:  # quicker than text: status reads thousands
            value, written_s = json.loads(file.readall()), os.fstat(file.fileno()).st_mtime
    except (OSError, ValueError):
        return None, None
    return (value, written_s) if isinstance(value, dict) else (None, None)


def clock_of(folder: Path) -> float:
    """Returns the present time in seconds since the epoch, on the clock that stamps the files in `folder`.

    On shared storage that is the server's, the same for all hosts; this host's where nothing can be written.
    """
    return time.time() + _ahead_s(folder)


@functools.cache
def _ahead_s(folder: Path) -> float:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock.") as file:
            file.write(b"x")  # the server stamps what it writes
            file.flush()
            return os.fstat(file.fileno()).st_mtime - time.time()
    except OSError:
        return 0.0
