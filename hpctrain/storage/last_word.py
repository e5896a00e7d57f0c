"""How a rank says why it ends if it cannot write files: a line on stderr, which the launcher reads, and an exit code.

Takes text; returns reasons of storage/run_state.py. No side effects.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from hpctrain.errors import RunFailed
from hpctrain.storage.run_state import ENDINGS, Reason, reason_of_oserror

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
    """Returns the line that says so on stderr."""
    who = "" if word.rank is None else f"rank {word.rank}: "
    return f"hpctrain: {who}{word.reason}: {word.detail}"


def find(text: str) -> LastWord | None:
    """Returns the first last word in `text`, if possible not of a rank that only waited for another; or None."""
    words = [
        LastWord(
            match["reason"], match["detail"].strip(), None if match["rank"] is None else int(match["rank"])
        )
        for match in _LINE.finditer(text)
        if match["reason"] in ENDINGS
    ]
    return min(words, key=lambda word: word.reason == Reason.COLLECTIVE_TIMEOUT, default=None)


def exit_code(reason: str) -> int:
    """Returns the exit code of a process that failed for `reason`."""
    return ENDINGS[reason].exit_code if reason in ENDINGS else 1


def reason_of_exit(code: int | None) -> str | None:
    """Returns the reason that has this exit code for itself; None if the code does not say why."""
    return next((r for r, ending in ENDINGS.items() if ending.exit_code == code != 1), None)


def unwritten(code: int | None, reason: str | None) -> bool:
    """Returns whether an exit code names a reason of its own, and `reason`, which was written down, is another."""
    return reason_of_exit(code) not in (None, reason)
