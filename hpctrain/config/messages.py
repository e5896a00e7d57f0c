"""Turns pydantic's errors into one line: the key, the value, what is allowed, and the nearest match."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hpctrain.config.near import meant
from hpctrain.config.settings import MOST
from hpctrain.errors import UserError, nearest
from hpctrain.storage.folders import NAME_RULE

# If a setting is a union, pydantic appends the name of the branch to the setting's key.
_BRANCHES = {"sgd", "adam", "adamw", "lars", "int", "constrained-int", "str"}
# Pydantic's wording, and ours.
_WORDS = {
    "a valid tuple": "a list, as in [1,2]",
    "a valid dictionary": "a table, as in {NAME:VALUE}",
    "a valid mapping": "a table, as in {NAME:VALUE}",
}


def explain(
    errors: Sequence[Mapping[str, Any]], prefix: str, neighbours: Callable[[list[str]], list[str]]
) -> UserError:
    """Returns the first error; its key gets `prefix`. `neighbours` returns the settings beside an unknown one."""
    error = errors[0]
    where = [str(part) for part in error["loc"] if part not in _BRANCHES]
    key, given, text = prefix + ".".join(where), _as_written(error["input"]), str(error["msg"])
    if error["type"] == "unexpected_keyword_argument":
        near = meant(where[-1], neighbours(where))
        if near == where[-1] and len(where) > 1:  # another kind of its group has it
            return of_another(prefix + ".".join(where[:-1]), str(error["loc"][-2]), where[-1], given)
        return UserError(key, given, "unknown setting", near)
    if error["type"] == "int_parsing_size":
        return UserError(key, given, f"must be a whole number from 0 to {MOST}")
    if error["type"] == "union_tag_invalid":
        key, given = f"{key}.name", error["ctx"]["tag"]
    if error["type"] in ("literal_error", "union_tag_invalid"):
        context = error["ctx"]
        given_words = context.get("expected") or context["expected_tags"]
        expected = re.findall(r"'([^']*)'", given_words) or [
            given_words.lower()
        ]  # a Literal of False has no quotes
        return UserError(key, given, f"must be one of {', '.join(expected)}", nearest(str(given), expected))
    if error["type"] == "value_error":
        # A __post_init__ names its own key and value: "model.depth=3: must be even".
        named = re.fullmatch(r"([\w.]+)=(.*?): (.*)", text.removeprefix("Value error, "))
        if named:
            return UserError(named[1], named[2], named[3])
        return UserError(key.rstrip("."), "", text.removeprefix("Value error, "))
    if where[-1:] == ["[key]"]:
        key = prefix + ".".join(where[:-1])
        return UserError(
            key, "", "its name must be letters, digits and _ (of an option, - too), no digit first"
        )
    if error["type"] == "string_type" and isinstance(error["input"], int | float):
        quoted = shlex.quote(f'{key}="{given}"')
        return UserError(key, given, f"must be text, in quotes: {quoted}")
    if error["type"] == "string_pattern_mismatch":
        if given == "???":  # a setting that conf/ leaves open
            return UserError(key, "", "is missing")
        return UserError(key, repr(given), NAME_RULE)
    if error["type"] in ("missing", "missing_argument", "union_tag_not_found"):
        return UserError(key, "", "is missing")
    if error["type"] in ("dataclass_type", "model_attributes_type"):
        return UserError(key, given, "must be a group of settings")
    text = text.removeprefix("Input should be ").partition(", unable to parse")[0]
    for theirs, ours in _WORDS.items():
        text = text.replace(theirs, ours)
    text = text.replace("greater than", ">").replace("less than", "<")
    text = text.replace("> or equal to", "≥").replace("< or equal to", "≤")
    # A union of a number and words: the message for the number, then the words.
    union = [
        e
        for e in errors[1:]
        if e["loc"][:-1] == error["loc"][:-1] and str(e["loc"][-1]).startswith("literal[")
    ]
    words = [e["ctx"]["expected"] for e in union]
    return UserError(key, given, f"must be {text}" + "".join(f", or {word}" for word in words))


def of_another(group: str, name: str, setting: str, given: Any) -> UserError:
    """Returns the error for a setting that option `name` of a group does not have, but another option has."""
    allowed = f"is not a setting of {name} (chosen as {group}={name}, with its own settings)"
    return UserError(f"{group}.{setting}", _as_written(given), allowed)


def _as_written(value: Any) -> Any:
    """Returns null, true and false as a user writes them; other values as they are."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else value
