"""Writes to storage that is full, or fails, for a while: three ways to wait or to go on without the file.

Files that a run needs are written `patiently`; files that are only for people are `left_out`; files that are written
again and again have a `Tolerance`. Takes functions that write, and calls them. Times are
in seconds. No torch.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from hpctrain.errors import RunFailed
from hpctrain.patience import Patience
from hpctrain.storage.run_state import STORAGE, reason_of_oserror, storage_failure

PATIENCE_S = 30.0  # enough for a user who frees space at once
AGAIN_S = 1.0

T = TypeVar("T")


def patiently(write: Callable[[], T], patience_s: float | None = None) -> T:
    """Returns what `write` returns; calls it again while storage is at fault, for at most `patience_s` (PATIENCE_S).

    Raises OSError and RunFailed, at once if storage is not at fault.
    """
    patience = Patience(PATIENCE_S if patience_s is None else patience_s, AGAIN_S)
    while True:
        try:
            return write()
        except (OSError, RunFailed) as error:
            reason = error.reason if isinstance(error, RunFailed) else reason_of_oserror(error)
            if reason not in STORAGE or patience.is_over():
                raise
        time.sleep(AGAIN_S)


@contextlib.contextmanager
def left_out(what: str) -> Iterator[None]:
    """For a block that writes what a run can do without: if storage fails, prints a line, and the run goes on."""
    try:
        yield
    except OSError as error:
        if reason_of_oserror(error) is None:
            raise
        print(f"{what} not written ({error}); the run goes on", flush=True)


class Tolerance:
    """Counts for how long writes of one thing have failed; ends the run after a limit."""

    def __init__(self, what: str, limit_s: float) -> None:
        self._what, self._limit_s = what, limit_s
        self._since_s: float | None = None

    def worked(self) -> None:
        """Call it after a successful write."""
        self._since_s = None

    def failed(self, error: OSError) -> None:
        """Call it after a failed write. Raises RunFailed past the limit, and OSError if storage is not at fault."""
        if reason_of_oserror(error) is None:
            raise error
        now_s = time.monotonic()
        if self._since_s is None:
            self._since_s = now_s
            print(f"{self._what} not written ({error}); the run goes on", flush=True)
        elif now_s - self._since_s >= self._limit_s:
            raise storage_failure(error, f"{self._what} cannot be written")
