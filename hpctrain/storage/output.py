"""A process's own output as the log of a run: without secrets, and never worth the run.

Replaces stdout and stderr. No torch.
"""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any

from hpctrain.shown import without_secrets


def as_log() -> None:
    """From now on this process's stdout and stderr hide secrets, and lose the lines that storage does not take."""
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(
            io.BufferedWriter(_Log(number, "w", closefd=False)), "utf-8", "replace", line_buffering=True
        )
        for number in (1, 2)
    )


class _Log(io.FileIO):
    """A log that takes all lines, and keeps of them what is not secret and what storage takes."""

    def write(self, data: Any) -> int:
        """Returns how many bytes of `data` are dealt with: all."""
        text = bytes(data)
        kept = without_secrets(text.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        with contextlib.suppress(OSError):
            while kept:
                kept = kept[super().write(kept) :]
        return len(text)
