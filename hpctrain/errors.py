"""The ways in which a command ends badly, as exceptions.

Takes names and values, returns one-line messages without control characters and secrets. No side effects.
"""

from __future__ import annotations

import difflib
import errno
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hpctrain.shown import shown


class UserError(Exception):
    """The user's input is wrong: nothing was started. Shown as one line; exit code 2."""

    def __init__(self, key: str, value: Any, allowed: str, nearest: str | None = None) -> None:
        """`key=value` is what was given, `allowed` says in words what would be right."""
        self.key, self.value, self.allowed, self.nearest = key, value, allowed, nearest
        # With its key: the name of a value may say that it is secret.
        given = shown(f"{key}={' '.join(str(value).split())}").removeprefix(f"{key}=")
        if len(given) > 80:
            given = f"{given[:38]}...{given[-39:]}"  # both ends: of a path, the end says which file
        hint = f" (did you mean {nearest}?)" if nearest else ""
        allowed = allowed.replace("\n", "\\n")  # of a value that it quotes: an error is one line
        super().__init__(shown(f"{key}={given}: {allowed}{hint}"))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.key, self.value, self.allowed, self.nearest)


class RunFailed(Exception):
    """The work itself failed. `reason` is a name of storage/run_state.py; shown as one line; exit code 1."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(shown(f"{reason}: {detail}"))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason, self.detail)


class Uncounted(Exception):
    """The operations of a network are not known. The text says why; a run goes on without their figures."""

    def __init__(self, why: str) -> None:
        super().__init__(shown(" ".join(why.split())))


class Unusable(Exception):
    """Files of a run are not what they should be. Shown as one line; exit code 1."""


class Damaged(OSError):
    """A small file is there, but does not hold what belongs into it. Shown as one line; exit code 1."""

    def __init__(self, path: Any, why: str) -> None:
        super().__init__(errno.EIO, f"is damaged ({why})", str(path))
        self.why = why

    def __str__(self) -> str:
        return f"{self.filename} {self.strerror}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.filename, self.why)


class Closed(Damaged):
    """A small file is there, but this user may not read it. Shown as one line; exit code 1."""

    def __init__(self, path: Any, why: str) -> None:
        super().__init__(path, why)
        self.errno, self.strerror = errno.EACCES, f"cannot be read: {why}"


class Foreign(Damaged):
    """A file or folder that acts, and that others could have written. Shown as one line; exit code 1."""

    def __init__(self, path: Any, why: str) -> None:
        super().__init__(path, why)
        self.errno, self.strerror = errno.EPERM, f"is not believed: {why}"


def place_in_code(error: BaseException) -> str | None:
    """Returns file and line, such as `nets.py, line 7`, at which the user's own code raised `error`; None if not in it.

    The user's own code is what is neither an installed package, nor Python's, nor this one.
    """
    own, place = str(Path(__file__).parent), None
    step = error.__traceback__
    while step is not None:
        file = step.tb_frame.f_code.co_filename
        if not (file.startswith((own, sys.base_prefix, "<")) or "-packages" in file):
            place = f"{Path(file).name}, line {step.tb_lineno}"
        step = step.tb_next
    return place


def said(error: BaseException) -> str:
    """Returns the first line of what an error says, and where the user's code raised it: `no key (nets.py, line 7)`."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{first} ({place})" if (place := place_in_code(error)) else first


def listing(names: Sequence[str], most: int, more: str = "more") -> str:
    """Returns the first `most` names in a line, and how many `more` there are."""
    rest = f" and {len(names) - most:,} {more}" if len(names) > most else ""
    return f"{', '.join(names[:most])}{rest}"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Returns the name most like `name`, or None if none is similar."""
    matches = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.5)
    return matches[0] if matches else None


def choose(key: str, value: str, names: Iterable[str]) -> UserError:
    """Returns the error for a value that is not one of `names`, which it lists."""
    names = sorted(names)
    return UserError(key, value, f"must be one of {', '.join(names)}", nearest(value, names))
