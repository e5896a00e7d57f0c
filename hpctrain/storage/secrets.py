"""Secrets stay out of configurations, logs and provenance: what is written to disk is searched for them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hpctrain.errors import UserError

_SECRET = re.compile(
    r"(?i)([\w.]*(?:token|secret|passw\w*|api_?key|credentials?)\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|\S+)"
)


def without_secrets(text: str) -> str:
    """Returns `text` with the value of NAME_TOKEN=..., password: ... and the like replaced by ***."""
    return _SECRET.sub(r"\1***", text)


def refuse_secrets(environment: Mapping[str, str], setup: tuple[str, ...]) -> None:
    """Raises UserError if a configuration, which is written to disk and into job scripts, holds a secret."""
    for where, text in [(f"environment.{k}", f"{k}={v}") for k, v in environment.items()] + [
        ("setup", line) for line in setup
    ]:
        if _SECRET.search(text):
            raise UserError(
                f"cluster.{where}", "***", "looks like a secret and would be written to the run directory; "
                "export it in your shell instead, jobs inherit it"
            )  # fmt: skip
