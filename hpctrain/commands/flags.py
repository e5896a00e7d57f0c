"""A command's own flags apart from Hydra's words. Takes a command line, gives its parts; pure."""

from __future__ import annotations

from collections.abc import Sequence

from hpctrain.errors import UserError, nearest


def take(
    argv: Sequence[str], *flags: str, **valued: Sequence[str] | None
) -> tuple[list[str], set[str], dict[str, str]]:
    """Words, the `flags` among them (`-h` is `--help`), and the values of the flags that take one.

    `valued`: name, without dashes, to the values allowed, or None where any will do; `--name V` and `--name=V` both
    hold. Raises UserError for other words that begin with a dash.
    """
    words: list[str] = []
    found: set[str] = set()
    values: dict[str, str] = {}
    rest = iter(argv)
    for word in rest:
        name, equals, value = word.partition("=")
        if word in flags or word in ("-h", "--help"):
            found.add("--help" if word == "-h" else word)
        elif name.startswith("--") and name[2:] in valued:
            values[name[2:]] = value = value if equals else next(rest, "")
            allowed = valued[name[2:]]
            if not value or (allowed is not None and value not in allowed):
                raise UserError(
                    name, value, f"must be one of {', '.join(allowed)}" if allowed else "needs a value"
                )
        elif word.startswith("-"):
            known = [*flags, *(f"--{key}" for key in valued), "--help"]
            raise UserError("flag", word, f"must be one of {', '.join(known)}", nearest(word, known))
        else:
            words.append(word)
    return words, found, values
