"""Names of functions and classes in tables that must stay light: "package.module:name", imported when first needed."""

from __future__ import annotations

import importlib
from typing import Any


def load(place: str) -> Any:
    """Returns what `place`, "package.module:name", names. Raises ImportError or AttributeError if it is not there."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
