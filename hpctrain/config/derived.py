"""Placeholders for settings that follow from the data, such as the size of a text's vocabulary.

Composing reads no data. It puts a mark in place of such a setting (`${vocabulary_size:}` in conf/data) and of whatever
refers to it; hpctrain/data/derive.py replaces the marks with numbers. Pure.
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
    """Returns a copy of `values`, plain containers, with the mark of each setting replaced by `figure(setting)`."""
    if isinstance(values, dict):
        return {key: fill(value, figure) for key, value in values.items()}
    if isinstance(values, list):
        return [fill(value, figure) for value in values]
    if not isinstance(values, str):
        return values
    whole = _MARK.fullmatch(values)
    return figure(whole[1]) if whole else _MARK.sub(lambda match: str(figure(match[1])), values)
