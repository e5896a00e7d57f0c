"""How a rank says why it ends without needing the disk: a line on the stderr that its launcher reads, and a code.

Takes text; returns reasons of storage/run_state.py. No side effects.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from hpctrain.errors import RunFailed
from hpctrain.storage.run_state import ENDINGS, Reason, reason_of_oserror

# The exit code of a rank, and of its job, that ended as DISK_FULL: 200 and ENOSPC's number. srun returns the highest of
# its tasks' codes, and those that it kills have 137 or 143.
EXIT_DISK_FULL = 228

_LINE = re.compile(r"hpctrain: (?:rank (?P<rank>\d+): )?(?P<reason>[A-Z_]+): (?P<detail>.*)")


class LastWord(NamedTuple):
    """Why an attempt ended, and the rank at fault if one is named."""

    reason: str
    detail: str
    rank: int | None


def of(error: OSError | RunFailed) -> LastWord | None:
    """Returns what an error that a process does not survive says of its end; None if it has no reason for that."""
    if isinstance(error, RunFailed):
        return LastWord(error.reason, error.detail, None)
    reason = reason_of_oserror(error)
    return None if reason is None else LastWord(reason, str(error), None)


def line(word: LastWord) -> str:
    """Returns the line that says it."""
    who = "" if word.rank is None else f"rank {word.rank}: "
    return f"hpctrain: {who}{word.reason}: {word.detail}"


def find(text: str) -> LastWord | None:
    """Returns the first that is said in `text`, if possible of a rank that did not only wait for another; or None."""
    words = [
        LastWord(
            found["reason"], found["detail"].strip(), None if found["rank"] is None else int(found["rank"])
        )
        for found in _LINE.finditer(text)
        if found["reason"] in ENDINGS
    ]
    return min(words, key=lambda word: word.reason == Reason.COLLECTIVE_TIMEOUT, default=None)


def exit_code(reason: str) -> int:
    """Returns the exit code of a process that failed for `reason`."""
    return EXIT_DISK_FULL if reason == Reason.DISK_FULL else 1
