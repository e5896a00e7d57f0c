"""Small files that are read and replaced whole: a reader, or a crash, sees the old text or the new. No torch."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
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
    try:
        with path.open("rb", buffering=0) as file:  # quicker than text: status reads thousands
            value = json.loads(file.readall())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
