"""The file-system calls of a commit, one method each: any of them can fail, or be the last that a process makes.

Takes paths, descriptors and bytes; new files are 0600 and new folders 0700 under any umask. Tests replace these calls:
they kill the process at each, and let each fail. No torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hpctrain.errors import UserError
from hpctrain.storage import ownership

CHUNK_BYTES = 16 * 2**20  # written, read or hashed in one call


class Files:
    """The real calls. Each raises OSError."""

    def make_folder(self, path: Path) -> None:
        """Makes the folder, unless another rank was faster."""
        with contextlib.suppress(FileExistsError):
            path.mkdir(0o700)
            path.chmod(0o700)

    def create(self, path: Path) -> int:
        """Returns a descriptor for writing; the file must be new."""
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        os.fchmod(handle, 0o600)
        return handle

    def write(self, handle: int, data: memoryview) -> None:
        """Writes all of `data`: one call of write(2) may take less."""
        while data:
            data = data[os.write(handle, data) :]

    def sync(self, handle: int) -> None:
        """Makes the content of an open file durable."""
        os.fsync(handle)

    def close(self, handle: int) -> None:
        """Closes a descriptor."""
        os.close(handle)

    def sync_folder(self, path: Path) -> None:
        """Makes the names in a folder durable: creations, renames and removals."""
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def rename(self, old: Path, new: Path) -> None:
        """Renames `old` to `new`, and replaces what is there."""
        old.rename(new)

    def link(self, old: Path, new: Path) -> bool:
        """Makes `new` a second name of `old`; returns False if `new` exists already."""
        with contextlib.suppress(FileExistsError):
            os.link(old, new)
        # NFS may send a request twice and answer that our own link exists already: count the names instead.
        return old.stat().st_nlink == 2

    def remove(self, path: Path) -> None:
        """Removes a file or a link."""
        path.unlink()

    def remove_folder(self, path: Path) -> None:
        """Removes an empty folder."""
        path.rmdir()


FILES = Files()


def name_file(error: BaseException, path: Path) -> None:
    """Notes in an OSError of a descriptor, which knows no name, that it is about `path`."""
    if isinstance(error, OSError) and error.filename is None:
        error.filename = str(path)


def write_file(path: Path, chunks: Iterable[memoryview], files: Files) -> tuple[int, str]:
    """Writes a new file durably, except for its name; returns its bytes and its SHA-256 in hex. Raises OSError."""
    digest, size = hashlib.sha256(), 0
    handle = files.create(path)
    try:
        for chunk in chunks:
            files.write(handle, chunk)
            digest.update(chunk)
            size += len(chunk)
        files.sync(handle)
    except BaseException as error:
        with contextlib.suppress(OSError):
            files.close(handle)
        name_file(error, path)
        raise
    files.close(handle)  # NFS may report a failed write only here
    return size, digest.hexdigest()


def replace_file(path: Path, content: bytes, files: Files) -> None:
    """Replaces a file's content in one step and durably: a power failure does not undo it. Raises OSError."""
    draft = path.parent / f".draft.{path.name}.{uuid.uuid4().hex[:8]}"
    try:
        write_file(draft, [memoryview(content)], files)
        files.rename(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            files.remove(draft)
        raise
    files.sync_folder(path.parent)


def remove_tree(path: Path, files: Files) -> None:
    """Removes a file, or a folder with everything in it. Removes links and does not follow them. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        for child in sorted(path.iterdir()):
            remove_tree(child, files)
        files.remove_folder(path)
    else:
        files.remove(path)


def open_regular(path: Path | str) -> int:
    """Returns a descriptor for reading. Raises OSError if it is not a regular file, but a link or a pipe."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(f"{Path(path).name} is not a regular file")
    return handle


@contextlib.contextmanager
def lock_file(path: Path) -> Iterator[int | None]:
    """Yields a descriptor of an empty file, for flock(2); None if the file is another user's and may not be opened.

    Follows no link and changes no existing file. Raises OSError.
    """
    flags = os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        try:
            handle = os.open(path, os.O_RDONLY | flags)
        except FileNotFoundError:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666)
    except PermissionError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def refuse_if_shared(folder: Path) -> None:
    """Raises UserError if other users may write to `folder`: they could replace the state of our run."""
    status = folder.stat()
    if ownership.others(status):
        mode = f"owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}"
        raise UserError("run", folder, f"others may write there ({mode}); look at it, then chmod 0700")


def seal(values: dict[str, Any]) -> bytes:
    """Returns JSON that contains its own SHA-256, so that every changed bit shows."""
    return _canonical(values | {"seal": hashlib.sha256(_canonical(values)).hexdigest()})


def unseal(content: bytes) -> dict[str, Any]:
    """Returns the values that were sealed. Raises ValueError for anything that `seal` did not return."""
    try:
        values = json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError("not an object")
    values.pop("seal", None)
    if seal(values) != content:
        raise ValueError("does not have the SHA-256 that it names")
    return values


def _canonical(values: dict[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, indent=1).encode() + b"\n"
