"""One way to take flags, for every command: argparse, with one line for whatever is wrong.

Takes a command line, returns its flags as attributes and everything else as `words`. Prints nothing but --help.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hpctrain.errors import UserError, nearest
from hpctrain.storage.folders import check_root, check_study
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.search import find

DEFAULT_ROOT = "runs"


class Parser(argparse.ArgumentParser):
    """The flags of one command. Words (a run, a study, settings) may stand anywhere among them."""

    def __init__(
        self, command: str, about: str, words: str = "", more: str = "", passed_on: Collection[str] = ()
    ) -> None:
        """`words` is shown in the usage line; `passed_on` are flags of another program, which stay words."""
        super().__init__(
            prog=f"hpctrain {command}",
            usage=f"hpctrain {command} [flags] {words}".rstrip(),
            description=about,
            epilog=more,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            exit_on_error=False,
            add_help="--help" not in passed_on,
        )
        self._optionals.title = "flags"
        self._passed_on = passed_on
        self._place_is_settings: bool | None = None

    def add_json(self) -> None:
        """Add --json."""
        self.add_argument("--json", action="store_true", help="one JSON document on stdout")

    def add_run_place(self, *, as_settings: bool, study: str = "only runs of this study") -> None:
        """Add --root and --study; `run.root=` and `run.study=` mean the same.

        `as_settings`: the command takes Hydra's settings, and finds both among its words. `study` is for --help.
        """
        self.add_argument(
            "--root", metavar="FOLDER", help="run.root: where the runs are (default: HPCTRAIN_ROOT, or runs)"
        )
        text = "the study that the runs belong to" if as_settings else study
        self.add_argument("--study", metavar="NAME", help=f"run.study: {text}")
        self._place_is_settings = as_settings

    def take(self, argv: Sequence[str], most_words: int | None = None) -> argparse.Namespace:
        """Returns the flags, and `words`: what is not a flag, in order. Raises UserError."""
        try:
            taken, words = self.parse_known_args(list(argv))
        except argparse.ArgumentError as error:
            raise UserError(str(error.argument_name), "", _plainly(error.message)) from None
        for word in words:
            if word.startswith("-") and word.partition("=")[0] not in self._passed_on:
                raise self._unknown(word)
        taken.words = self._placed(taken, words)
        if most_words is not None and len(taken.words) > most_words:
            raise UserError("word", taken.words[most_words], f"is one too many; {self.prog} --help says more")
        return taken

    def _placed(self, taken: argparse.Namespace, words: list[str]) -> list[str]:
        """Returns the words with --root and --study as settings, or without the settings that mean these flags."""
        if self._place_is_settings is None:
            return words
        default = os.environ.get("HPCTRAIN_ROOT") or None
        if self._place_is_settings:
            if not any(word.lstrip("+").startswith("run.root=") for word in words):
                taken.root = taken.root if taken.root is not None else default
            given = (("run.root", taken.root), ("run.study", taken.study))
            return words + [f"{key}={_quoted(value)}" for key, value in given if value is not None]
        left = []
        for word in words:
            key, _, value = word.partition("=")
            if key in ("run.root", "run.study"):
                setattr(taken, key.removeprefix("run."), value)
            else:
                left.append(word)
        taken.root = taken.root if taken.root is not None else default or DEFAULT_ROOT
        check_root(taken.root)
        if taken.study is not None:
            check_study(taken.study)
        return left

    def _unknown(self, word: str) -> UserError:
        flags = [s for action in self._actions for s in action.option_strings if s.startswith("--")]
        flags += [flag for flag in self._passed_on if flag.startswith("--")]
        known = [flag for flag in flags if flag != "--help"] + ["--help"]
        name = word.partition("=")[0]
        return UserError("flag", word, f"must be one of {', '.join(known)}", nearest(name, known))

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """As argparse does, but raises UserError with the flag and the value."""
        name = _name(action)
        if not arg_string and action.type is not text:
            raise UserError(name, "", "needs a value")
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            raise UserError(name, arg_string, error.message) from None

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = [str(choice) for choice in action.choices]
            raise UserError(
                _name(action), value, f"must be one of {', '.join(names)}", nearest(str(value), names)
            )

    def error(self, message: str) -> NoReturn:
        """Raise UserError; argparse calls this for a flag that must be given."""
        flags = message.removeprefix("the following arguments are required: ")
        raise UserError(flags, "", f"must be given; {self.prog} --help says more")


def find_run(args: argparse.Namespace) -> RunDir:
    """Returns the run that the first word names, or the newest one, by --root and --study. Raises UserError."""
    return find(args.root, next(iter(args.words), None), args.study)


def whole(least: int | None = None) -> Callable[[str], int]:
    """Returns a reader of whole numbers, `least` or more, for add_argument(type=...)."""
    wanted = "must be a whole number" + ("" if least is None else f" ≥ {least}")

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(wanted) from None
        if least is not None and number < least:
            raise argparse.ArgumentTypeError(wanted)
        return number

    return read


def number(text: str) -> float:
    """Returns the number that `text` says, for add_argument(type=...)."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError("must be a number") from None


def text(given: str) -> str:
    """Returns what was given, which may be empty: the type of a flag whose value is any text."""
    return given


def refuse_special(flag: str, path: Path) -> None:
    """Raises UserError for a device, pipe or folder, or a link to one: a new file would take its place."""
    if os.path.lexists(path) and not path.is_file():
        raise UserError(flag, path, "is there and is not a file: give another name")


def _quoted(value: str) -> str:
    """A value as Hydra's grammar reads it back: quoted if it holds more than plain letters."""
    if re.fullmatch(r"[\w./@+:-]*", value, re.ASCII):
        return value
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), value)
    return f"'{escaped}'"


def _name(action: argparse.Action) -> str:
    """The long form of a flag."""
    return next((s for s in action.option_strings if s.startswith("--")), action.dest)


def _plainly(message: str) -> str:
    return "needs a value" if message.startswith("expected one") else message
