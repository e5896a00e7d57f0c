"""Small files that are read and replaced as a whole: a reader, or a crash, sees the old text or the new. No torch."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from annotated_types import Ge, Le
from pydantic import Field, TypeAdapter, ValidationError

from hpctrain.errors import Closed, Damaged, Foreign
from hpctrain.storage import ownership
from hpctrain.storage.files import name_file, open_regular

MOST_BYTES = 16 * 2**20  # a larger file counts as damaged
# Numbers in a file: no text, no NaN, nothing that overflows.
Count = Annotated[int, Ge(0), Le(2**53)]
ProcessId = Annotated[int, Ge(1), Le(2**31 - 1)]
Number = Annotated[float, Field(allow_inf_nan=False)]

T = TypeVar("T")
_NOT_A_FILE = "not a regular file"  # it is a link, a pipe, a folder, a socket or a device


def replace_text(path: Path, text: str) -> None:
    """Does what `replace_bytes` does, with a text. Raises OSError."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """Writes a file so that a reader, or a crash, sees the old content or the new, never a part. Raises OSError."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _move(Path(name), path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        name_file(error, path)
        raise


def _move(draft: Path, path: Path) -> None:
    """Renames a draft; keeps a folder that is in the way under another name."""
    try:
        draft.replace(path)
    except IsADirectoryError:
        path.rename(draft.with_name(f"{draft.name.removeprefix('.')}.damaged"))
        draft.replace(path)


def read_small(path: Path | str) -> tuple[bytes, float]:
    """Returns the content of a small file, and when it was written, by the clock of `clock_of`.

    Never waits for a writer, and follows no link. Raises FileNotFoundError; Damaged if it is not a regular file, cannot
    be read or is larger than MOST_BYTES.
    """
    return _read(path, _opened(path))


def read_own(path: Path) -> tuple[bytes, float]:
    """Returns what `read_small` does, for a file that hpctrain acts on and does not only show.

    Also raises Foreign, if anybody but this user and root could have written the file or put it there.
    """
    return _read(path, ownership.opened(path))


def _read(path: Path | str, opened: AbstractContextManager[int]) -> tuple[bytes, float]:
    try:
        with opened as handle:
            facts = os.fstat(handle)
            size = facts.st_size
            content = os.read(handle, size + 1) if size <= MOST_BYTES else b""
            while len(content) < size <= MOST_BYTES and (more := os.read(handle, size)):
                content += more
    except (FileNotFoundError, Foreign):
        raise
    except PermissionError as error:
        raise Closed(path, ownership.unread(error)) from None
    except OSError as error:
        why = _NOT_A_FILE if error.errno in (None, errno.ELOOP, errno.ENXIO) else str(error.strerror)
        raise Damaged(path, why) from None
    if size > MOST_BYTES:
        raise Damaged(path, f"larger than {MOST_BYTES // 2**20} MiB")
    return content, facts.st_mtime


@contextlib.contextmanager
def _opened(path: Path | str) -> Iterator[int]:
    handle = open_regular(path)
    try:
        yield handle
    finally:
        os.close(handle)


def load(path: Path, kind: type[T], own: bool = False) -> T | None:
    """Returns what a JSON file holds, as the dataclass or TypedDict `kind`; None if there is no such file.

    Keys that `kind` does not have are left out. Raises Damaged. `own`: as in `read_own`.
    """
    try:
        return parse(path, (read_own if own else read_small)(path)[0], kind)
    except FileNotFoundError:
        return None


def parse(path: Path | str, content: bytes, kind: type[T]) -> T:
    """Returns the JSON in `content`, read from `path`, as the dataclass or TypedDict `kind`. Raises Damaged."""
    if not content:
        raise Damaged(path, "empty")
    try:
        value = _adapter(kind).validate_json(content, strict=True)
        return cast("T", _recorded(Path(path), value)) if isinstance(value, dict) else value
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise Damaged(path, f"not JSON: {first['ctx']['error']}") from None
        place = ".".join(map(str, first["loc"]))
        raise Damaged(path, f"{place}: {first['msg'].lower()}" if place else first["msg"]) from None


class _Record(dict[str, Any]):
    """A table of a file; asking for a missing value raises Damaged, which names the file and the key."""

    path, place = Path(), ""

    def __missing__(self, key: str) -> Any:
        raise Damaged(self.path, f"{self.place}{key} is missing")


def _recorded(path: Path, value: Any, place: str = "") -> Any:
    """Returns `value`, which stands at `place` in the file, with each table as a `_Record`."""
    if isinstance(value, list):
        return [_recorded(path, each, f"{place}{n}.") for n, each in enumerate(value)]
    if not isinstance(value, dict):
        return value
    table = _Record((key, _recorded(path, each, f"{place}{key}.")) for key, each in value.items())
    table.path, table.place = path, place
    return table


_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def _adapter(kind: type[T]) -> TypeAdapter[T]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def read_json(path: Path) -> dict[str, Any] | None:
    """Returns the JSON object in a file; None if the file is missing or damaged. For files that can be made again."""
    try:
        value = json.loads(read_small(path)[0])
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def clock_of(folder: Path) -> float:
    """Returns the present time in seconds since the epoch, by the clock that stamps the files in `folder`.

    On shared storage that is the server's clock, the same for all hosts; it is this host's if nothing can be written.
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
