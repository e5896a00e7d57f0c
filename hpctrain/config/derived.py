"""Settings that the data itself says, such as the size of a text's vocabulary, before anybody has looked at the data.

Composing puts a mark in the place of such a setting (`${vocabulary_size:}` in conf/data), and whatever refers to it
has the mark too; hpctrain/data/derive.py puts the numbers there. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from hpctrain.config.data_kinds import DERIVED

_MARK = re.compile(rf"<({'|'.join(DERIVED)}) of the data>")


def mark(setting: str) -> str:
    """Returns the text that stands for the value of `setting`, one of DERIVED, until it is known."""
    return f"<{setting} of the data>"


def fill(values: Any, figure: Callable[[str], Any]) -> Any:
    """Returns a copy of `values`, plain containers, with `figure(setting)` in the place of each setting's mark."""
    if isinstance(values, dict):
        return {key: fill(value, figure) for key, value in values.items()}
    if isinstance(values, list):
        return [fill(value, figure) for value in values]
    if not isinstance(values, str):
        return values
    whole = _MARK.fullmatch(values)
    return figure(whole[1]) if whole else _MARK.sub(lambda match: str(figure(match[1])), values)
