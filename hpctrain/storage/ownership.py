"""Which files and folders are believed: those that only this user and root can write, the rule of sshd.

Takes paths and looks at what was opened, never twice at a name: in between, another user who may rename a folder above
could put something else there. The rule holds for root as well: a file of another user is not root's. No torch.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from hpctrain.errors import Foreign, UserError

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def user(uid: int) -> str:
    """Returns the name of a user; the number if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def unread(error: OSError) -> str:
    """Returns why a file could not be read: of what this user may not read, a file or a folder above it, the owner."""
    if not isinstance(error, PermissionError) or error.filename is None:
        return error.strerror or str(error)
    path = Path(error.filename).absolute()
    closed = next((folder for folder in reversed(path.parents) if not os.access(folder, os.X_OK)), path)
    try:
        facts = closed.stat()
    except OSError:
        return str(error.strerror)
    above = "" if closed == path else f"the folder {closed} "
    return f"{above}belongs to {user(facts.st_uid)} (mode {stat.S_IMODE(facts.st_mode):04o})"


@contextlib.contextmanager
def readable(key: str) -> Iterator[None]:
    """Raises UserError for the setting `key` if this user may not read a file that is opened inside."""
    try:
        yield
    except PermissionError as error:
        raise UserError(key, error.filename, f"cannot be read: {unread(error)}") from None


def others(status: os.stat_result, sticky: bool = False, owner_only: bool = False) -> str | None:
    """Returns why users other than this one and root can write to what has this status; None if they cannot.

    `sticky` allows a folder in which others may make entries of their own, but cannot rename those of this user.
    `owner_only` asks for the owner alone, whoever may write.
    """
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid not in (os.geteuid(), 0):
        return f"belongs to {user(status.st_uid)}"
    if not owner_only and mode & 0o022 and not (sticky and mode & stat.S_ISVTX):
        return f"others may write there (mode {mode:04o}): look at it, then chmod go-w"
    return None


def foreign(folder: Path) -> str | None:
    """Returns why a folder is not this user's alone; None if it is, or if it does not exist. Raises OSError."""
    try:
        handle = os.open(folder, FOLDER)
    except FileNotFoundError:
        return None
    try:
        return others(os.fstat(handle))
    finally:
        os.close(handle)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """Yields a descriptor of a regular file that is this user's, in a folder of this user. Raises Foreign, OSError."""
    try:
        folder = os.open(path.parent, FOLDER)
    except PermissionError as error:
        raise Foreign(path.parent, f"cannot be read ({error.strerror})") from None
    try:
        _believe(folder, path.parent)
        handle = os.open(path.name, FILE, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(f"{path.name} is not a regular file")
        _believe(handle, path)
        yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[Path]:
    """Yields a path that leads into `folder` and nowhere else, whoever renames it meanwhile.

    Raises Foreign unless the folder is this user's alone and not a link; OSError.
    """
    try:
        handle = os.open(folder, FOLDER | os.O_NOFOLLOW)
    except NotADirectoryError:
        raise Foreign(folder, "is not a folder, or is a link to one") from None
    try:
        _believe(handle, folder)
        yield Path(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)


def shared(root: Path) -> str | None:
    """Returns what members of a group may do to the studies in `root`; None if they may not, or it is not there."""
    try:
        mode = stat.S_IMODE(root.stat().st_mode)
    except OSError:
        return None
    if mode & stat.S_IWGRP and not mode & stat.S_ISVTX:
        return f"members of its group may rename and remove your studies there (mode {mode:04o}): chmod +t {root}"
    return None


def walk(root: Path, folder: Path, owner_only: bool = False) -> int:
    """Returns a descriptor of `folder`, after a look at each folder from `root` down to it; follows no link below.

    All folders below `root` must be this user's. In `root`, and in a study's sticky folder, others may have folders of
    their own. Who may write to `root` can take a study away, but what they put there is not this user's. `owner_only`
    is enough for a file that nothing acts on. Raises Foreign, naming the folder; OSError.
    """
    handle, path = os.open(root, FOLDER), root
    try:
        mode = os.fstat(handle).st_mode
        if not owner_only and mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise Foreign(
                root, f"everybody may write there (mode {stat.S_IMODE(mode):04o}): chmod o-w, or +t"
            )
        for depth, name in enumerate(folder.relative_to(root).parts):
            path, above = path / name, handle
            handle = _step(name, above, path)
            os.close(above)
            _believe(handle, path, sticky=depth == 0, owner_only=owner_only)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _step(name: str, above: int, path: Path) -> int:
    """Returns a descriptor of the folder `name` in the open folder `above`; its path is `path`."""
    status = os.stat(name, dir_fd=above, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode):
        raise Foreign(path, "is not a folder, or is a link to one")
    try:
        return os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=above)
    except NotADirectoryError:
        raise Foreign(path, "became a link meanwhile") from None
    except PermissionError as error:
        raise Foreign(path, others(status) or f"cannot be read ({error.strerror})") from None


def _believe(handle: int, path: Path, sticky: bool = False, owner_only: bool = False) -> None:
    if why := others(os.fstat(handle), sticky, owner_only):
        raise Foreign(path, why)
