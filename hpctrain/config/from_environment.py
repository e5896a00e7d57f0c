"""References to environment variables in settings: `${oc.env:NAME}` and `${oc.env:NAME,default}`.

Files of a run hold the reference, not the value, which may be a secret; it is resolved when it is used. Takes and
returns plain containers; reads os.environ.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from typing import Any

from hpctrain.errors import UserError

_REFERENCE = re.compile(r"\$\{oc\.env:\s*([A-Za-z_]\w*)\s*(?:,([^{}]*))?\}")
_MISSING = object()


def reference(name: Any, default: Any = _MISSING) -> str:
    """Returns the reference to the variable `name`. Takes the place of OmegaConf's resolver, which reads it."""
    return f"${{oc.env:{name}}}" if default is _MISSING else f"${{oc.env:{name},{_written(default)}}}"


def _written(value: Any) -> str:
    return "null" if value is None else str(value)


def resolve(values: Any, key: str = "") -> Any:
    """Returns a copy of `values` (of setting `key`) with references resolved. Raises UserError if one is not set."""
    if isinstance(values, dict):
        return {name: resolve(value, f"{key}.{name}" if key else str(name)) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [resolve(value, f"{key}.{place}") for place, value in enumerate(values)]
    if not isinstance(values, str) or "${" not in values:
        return values

    def held(match: re.Match[str]) -> str:
        value = os.environ.get(match[1], match[2])
        if value is None:
            raise UserError(key, values, f"the variable {match[1]} is not set in your shell")
        return value

    text = _REFERENCE.sub(held, values)
    return None if text == "null" else text


def as_shell(text: str) -> str:
    """Returns `text` quoted for a shell, with references as shell variables, which are read when the shell runs."""
    words, end = [], 0
    for match in _REFERENCE.finditer(text):
        default = "" if match[2] is None else "-" + re.sub(r'([\\"$`])', r"\\\1", match[2])
        words += [shlex.quote(text[end : match.start()]), f'"${{{match[1]}{default}}}"']
        end = match.end()
    return "".join(word for word in [*words, shlex.quote(text[end:])] if word != "''") or "''"


def in_line(text: str) -> str:
    """Returns `text`, a line of a shell script, with references as shell variables."""
    return _REFERENCE.sub(
        lambda match: f"${{{match[1]}}}" if match[2] is None else f"${{{match[1]}-{match[2]}}}", text
    )


def references(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yields the key and the text of each setting that refers to a variable."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield from references(value, f"{key}.{name}" if key else str(name))
    elif isinstance(values, list | tuple):
        for place, value in enumerate(values):
            yield from references(value, f"{key}.{place}")
    elif isinstance(values, str) and _REFERENCE.search(values):
        yield key, values


def put_back(values: dict[str, Any], key: str, text: str) -> None:
    """Makes the setting `key` the reference `text` again, if it still has the value of that variable."""
    node: Any = values
    *path, last = key.split(".")
    for name in path:
        node = node[int(name)] if isinstance(node, list) else node.get(name, {})
    place: Any = int(last) if isinstance(node, list) else last
    if str(node[place] if isinstance(node, list) else node.get(place)) == str(resolve(text, key)):
        node[place] = text
