"""The folders that runs live in: their absolute names, made for this user alone, refused if others can write to them.

Side effects: makes folders, and sets the modes of this user's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from pathlib import Path

from hpctrain.errors import Foreign, RunFailed, UserError
from hpctrain.shown import CONTROL
from hpctrain.storage import ownership
from hpctrain.storage.files import FILES
from hpctrain.storage.run_state import Reason, reason_of_oserror

NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}"  # of a study, a run, a model or data: it cannot lead to another folder
NAME_RULE = "letters, digits and . _ + - only, at most 100, no leading sign"


def refuse_others(root: Path, folder: Path) -> None:
    """Raises UserError if users other than this one and root can write to a folder below `root`, down to `folder`."""
    try:
        os.close(ownership.walk(root, folder))
    except FileNotFoundError:
        pass
    except Foreign as error:
        own = "; another run.study makes one of your own" if Path(error.filename).parent == root else ""
        raise UserError(
            "run.root" if Path(error.filename) == root else "run", error.filename, f"{error.why}{own}"
        ) from None
    except OSError as error:
        raise UserError(
            "run.root", root, f"must be a folder that you can write to ({error.strerror})"
        ) from None


def make_private(path: Path) -> None:
    """Makes a folder and its parents. New ones are for this user alone; the folder is 0700 under any umask.

    Raises UserError, and RunFailed(DISK_FULL).
    """
    make_writable(path, mode=0o700)


def make_writable(path: Path, mode: int | None = None) -> None:
    """Makes a folder and its parents as `make_private` does; one that is there gets `mode`, or keeps its own (None).

    Raises UserError, and RunFailed(DISK_FULL).
    """
    try:
        new = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(new):
            FILES.make_folder(folder)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "not writable")
        if new or (mode is not None and path.stat().st_uid == os.getuid()):
            path.chmod(mode or 0o700)
        with tempfile.TemporaryFile(dir=path):
            pass  # a read-only file system fails only here
    except OSError as error:
        if reason_of_oserror(error) == Reason.DISK_FULL:
            raise RunFailed(Reason.DISK_FULL, f"{path}: {error.strerror}") from None
        allowed = f"must be a folder that you can write to ({error.strerror})"
        raise UserError("run.root", path, allowed) from None


def absolute(path: str | Path) -> Path:
    """Returns the absolute path as the user means it: links stay, because nodes may have other links.

    A relative path starts at the folder that the shell names as its own ($PWD).
    """
    shell = os.environ.get("PWD", "")
    with contextlib.suppress(OSError):
        if shell.startswith("/") and Path(shell).samefile("."):
            return Path(os.path.normpath(Path(shell) / path))
    return Path(os.path.normpath(Path.cwd() / path))


def check_study(study: str) -> None:
    """Raises UserError for what cannot be a study's name, such as a path."""
    if not re.fullmatch(NAME, study):
        raise UserError("run.study", repr(study), NAME_RULE)


def check_root(root: str) -> None:
    """Raises UserError for a folder of runs whose name cannot stand in Slurm's scripts."""
    if not root:
        raise UserError("run.root", "", "must be a folder, such as runs")
    place = str(absolute(root))
    if CONTROL.search(place):
        raise UserError("run.root", ascii(root), "must not hold a line break or another control character")
    try:
        Path(place).lstat()
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise UserError("run.root", root, f"cannot be a folder ({error.strerror})") from None
    if tag := re.search(r"%[jtAa]", place):  # submitit replaces them anywhere in the path
        raise UserError("run.root", root, f"must not hold {tag[0]}, which submitit would replace")
