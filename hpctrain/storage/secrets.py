"""Refuses a configuration that holds a secret, which would be written to disk and into job scripts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hpctrain.errors import UserError
from hpctrain.shown import without_secrets


def refuse_secrets(values: Mapping[str, Any]) -> None:
    """Raises UserError if a text anywhere in `values`, plain containers, is a secret; the error does not show it."""
    for key, name, text in _texts(values, ""):
        if without_secrets(f"{name}={text}") != f"{name}={text}":
            raise UserError(
                key, "***", "looks like a secret and would be written to the run directory; export it in your shell, "
                "which jobs inherit, or write ${oc.env:NAME}, which is kept as it stands"
            )  # fmt: skip


def _texts(values: Any, key: str) -> Iterator[tuple[str, str, str]]:
    """Yields each text with its key and the last name in the key: (key, name, text)."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _texts(value, f"{key}.{name}" if key else str(name))
    elif isinstance(values, list | tuple):
        for place, value in enumerate(values):
            yield from ((key, "", text) for _, _, text in _texts(value, f"{key}.{place}"))
    elif isinstance(values, str):
        yield key, key.rpartition(".")[2], values
