"""Composition by Hydra: overrides in, plain dictionaries out. No other file but sweep_grammar.py imports Hydra.

Takes command-line overrides (`model=lenet optimizer.lr=0.1`), returns resolved configurations. Hydra's
own errors become one-line `UserError`s. Reads the conf/ folder but no data: settings that follow from the data are
placeholders (config/derived.py).
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import GrammarParseError, InterpolationResolutionError, OmegaConfBaseException
from omegaconf.grammar_parser import parse

from hpctrain.config import from_environment, quick, yaml_files
from hpctrain.config.conf_files import conf_dir, groups
from hpctrain.config.data_kinds import DERIVED
from hpctrain.config.derived import mark
from hpctrain.config.near import meant
from hpctrain.errors import UserError, nearest

LONGEST_NAME = 200  # of an option; file systems take 255
# Exceptions raised in these packages are blamed on the input, even a TypeError or an IndexError.
_THEIRS = ("hydra", "omegaconf", "antlr4", "yaml")
# Groups with free keys: a key that does not exist yet may be set without a +.
_FREE = re.compile(r"(cluster\.(?:environment|sbatch|comm))([.=].*)", re.DOTALL)

# Hydra's flags that take a value, and the values of --cfg.
_WITH_VALUE = (
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
    "--experimental-rerun",
)  # fmt: skip
_FOLDERS = ("--config-dir", "-cd")
_SHOWN = ("job", "hydra", "all")

Derive = Callable[[Mapping[str, Any]], dict[str, Any]]


def _number(derive: Derive, setting: str, _parent_: DictConfig) -> Any:
    """Returns the value of `${vocabulary_size:}` or the like, by `derive`, from the data in the group `_parent_`."""
    values = {str(key): _parent_[key] for key in _parent_ if key != setting} | {setting: mark(setting)}
    return derive({"data": values})["data"][setting]


def _register(derive: Derive | None = None) -> None:
    """Registers resolvers. `${vocabulary_size:}` and the like become marks, or with `derive` numbers."""
    for setting in DERIVED:
        resolver = partial(_number, derive, setting) if derive else partial(mark, setting)
        OmegaConf.register_new_resolver(setting, resolver, replace=True)
    OmegaConf.register_new_resolver("oc.env", from_environment.reference, replace=True)


_register()


@contextlib.contextmanager
def hydra_in_conf(overrides: Sequence[str], config_name: str = "config") -> Iterator[None]:
    """A context with Hydra initialised in conf/. Raises UserError for whatever Hydra or OmegaConf raises inside."""
    _refuse_folder(overrides)
    _check_files(list(spelled_out(overrides)), conf_dir())
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            yield
    except Exception as error:
        if not _is_theirs(error):
            raise
        raise explain(error, overrides, config_name) from None


def compose(overrides: Sequence[str], config_name: str = "config") -> dict[str, Any]:
    """Returns the composed and resolved configuration as plain containers, without Hydra's own settings.

    Raises UserError.
    """
    with hydra_in_conf(overrides, config_name):
        return plain(hydra_compose(config_name, list(spelled_out(overrides))))


def change(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Returns a copy of `values`, a run's config.yaml, with overrides such as `optimizer.lr=0.1`. Raises UserError."""
    changed: dict[str, Any] = copy.deepcopy(dict(values))
    for override in map(read_override, overrides):
        key, given = override.key_or_group, override.get_value_string()
        if key in groups():
            raise UserError(key, given, "single values can change here, no whole groups")
        if override.is_sweep_override():
            raise _several(key, given, override.input_line or "")
        node = quick.holder(changed, key)
        if node is None:
            raise UserError(key, given, "unknown setting", meant(key, list(_flat_keys(changed))))
        node[key.rpartition(".")[2]] = override.value()
    return changed


def read_override(text: str) -> Override:
    """Returns one override, parsed by Hydra. Raises UserError."""
    try:
        (override,) = OverridesParser.create().parse_overrides([text])
    except Exception as error:
        if not _is_theirs(error):
            raise
        raise explain(error, [text], "config") from None
    if not override.key_or_group:
        raise _unreadable(text)
    return override


def run_app(
    argv: Sequence[str],
    job: Callable[[dict[str, Any]], tuple[int, float | None]],
    derive: Derive | None = None,
) -> int:
    """Runs `job` as a Hydra application: all of Hydra's flags (`--cfg`, `--multirun`, ...) work.

    `job` takes the composed settings and returns an exit code and the value that Hydra's sweepers should minimise.
    Returns the exit code, of a multirun the largest. `derive` fills in settings that follow from the data if Hydra
    prints them (`--resolve`).
    """
    codes, here = [0], os.getpid()
    errors: list[Exception] = []

    def task(values: DictConfig) -> float | None:
        # Errors are kept, to be raised below: Hydra would print a message of its own, and end a multirun.
        try:
            code, result = job(plain(values))
        except Exception as error:
            if os.getpid() != here:  # a launcher's process, from which only exceptions reach ours
                raise
            errors.append(explain(error, argv, "config") if _is_theirs(error) else error)
            return None
        codes.append(code)
        return result

    argv = _in_order(spelled_out(argv))
    _check_flags(argv)
    _refuse_folder(argv)
    folders: list[str | Path] = [conf_dir(), *_given(argv, "--config-dir", "-cd", "--config-path", "-cp")]
    for folder in folders:
        _check_files(argv, Path(folder))
    several = "--multirun" in argv or "-m" in argv
    beside = Path("multirun", time.strftime("%Y-%m-%d/%H-%M-%S"))  # as Hydra names it
    if several and not any(word.lstrip("+").startswith("hydra.sweep.dir=") for word in argv):
        argv = [f"hydra.sweep.dir={beside}", *argv]
    sys.argv = ["hpctrain", *argv]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise exceptions, which we report in one line
    _register(derive if "--resolve" in argv else None)
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(task)()
    except SystemExit as stopped:  # after --help and the like
        return int(stopped.code or 0)
    except Exception as error:
        if not _is_theirs(error):
            raise
        raise explain(error, [a for a in argv if not a.startswith("-")], "config") from None
    finally:
        _register()
        if several and len(codes) == 1:
            _leave_nothing(beside)
    if errors:
        raise errors[0]
    return max(codes)


def _leave_nothing(folder: Path) -> None:
    """Removes the folder that Hydra made for a multirun, if nothing but its own record and empty folders are in it."""
    (folder / "multirun.yaml").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        for path in (*folder.glob("*"), folder, *folder.parents[:2]):
            path.rmdir()


def spelled_out(argv: Sequence[str]) -> Iterator[str]:
    """Yields the words as Hydra expects them: a bare word NAME becomes experiment=NAME, free keys get ++."""
    taken = False
    for word in argv:
        bare = re.fullmatch(r"[A-Za-z0-9_-]+", word) is not None and not taken and not word.startswith("-")
        taken = (
            word.startswith("-")
            and "=" not in word
            and word not in ("--multirun", "-m", "--resolve", "--help")
        )
        free = _FREE.fullmatch(word)
        yield f"experiment={word}" if bare else f"++{word}" if free else word


def _in_order(words: Iterable[str]) -> list[str]:
    """Returns the settings, then the flags with their values: Hydra's parser takes no flag between settings."""
    settings: list[str] = []
    flags: list[str] = []
    before = ""
    for word in words:
        value = before in _WITH_VALUE or (before in ("--info", "-i") and "=" not in word)
        (flags if value or word.startswith("-") else settings).append(word)
        before = word
    return settings + flags


def _check_flags(argv: Sequence[str]) -> None:
    """Raises UserError for a flag of Hydra without its value, a wrong --cfg, or a --config-dir that does not exist."""
    for word, value in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        if word in _WITH_VALUE and (not value or value.startswith("-")):
            raise UserError(word, "", "needs a value")
        if (word in ("--cfg", "-c") and value not in _SHOWN) or (
            word.startswith("--cfg=") and word[6:] not in _SHOWN
        ):
            raise UserError("--cfg", value, f"must be one of {', '.join(_SHOWN)}", nearest(value, _SHOWN))
    if "--resolve" in argv and not any(re.match(r"(--cfg|-c|--help|-h)(=|$)", word) for word in argv):
        raise UserError("--resolve", "", "is for --cfg job or --help")
    for folder in _given(argv, *_FOLDERS):
        if not Path(folder).is_dir():
            raise UserError("--config-dir", folder, "there is no such folder")


def _refuse_folder(words: Sequence[str]) -> None:
    """Raises UserError for hydra.run.dir: it would be ignored, or created beside the run's folder."""
    for word in words:
        if re.match(r"\+*hydra\.run\.dir=", word):
            raise UserError(
                "hydra.run.dir", word.partition("=")[2], "cannot be set: runs are kept in run.root"
            )


def _given(argv: Sequence[str], *flags: str) -> list[str]:
    """Returns the values of flags of Hydra, such as --config-dir=FOLDER or --config-dir FOLDER."""
    after = [value for word, value in itertools.pairwise(argv) if word in flags]
    return after + [
        word.partition("=")[2] for word in argv if word.partition("=")[0] in flags and "=" in word
    ]


def _check_files(overrides: Sequence[str], folder: Path) -> None:
    """Raises UserError if a file in `folder` that an override chooses is not plain YAML, or can have no such name."""
    for override in overrides:
        group, _, names = override.lstrip("+").partition("=")
        if len(names) > LONGEST_NAME and group in groups():
            raise UserError(group, names, f"must be one of {', '.join(groups()[group])}")
        for name in names.split(","):
            path = folder / group.partition("@")[0] / f"{name}.yaml"
            if re.fullmatch(r"[\w./@-]{1,200}=[\w.,-]{1,200}", override.lstrip("+")) and path.is_file():
                yaml_files.check(group, path, _followed)


def _followed(text: str) -> bool:
    """Returns whether OmegaConf can parse a text with ${...}."""
    try:
        parse(text)
    except GrammarParseError:
        return False
    return True


def plain(values: DictConfig) -> dict[str, Any]:
    """Returns a composed configuration, resolved, as plain containers, without Hydra's own settings."""
    try:
        OmegaConf.resolve(values)
    except OmegaConfBaseException as error:
        if (found := _unresolved(values)) is None:
            raise
        raise UserError(*found, _unfollowed(str(error))) from None
    container: Any = OmegaConf.to_container(values)
    container.pop("hydra", None)
    return container  # type: ignore[no-any-return]


def _unresolved(values: DictConfig | ListConfig) -> tuple[str, str] | None:
    """Returns the first key whose ${...} cannot be followed, with its text, wherever it was written."""
    keys: list[Any] = list(values) if isinstance(values, DictConfig) else list(range(len(values)))
    for key in keys:
        node: Any = values._get_node(key)
        if OmegaConf.is_config(node) and not node._is_none() and not node._is_interpolation():
            if (inner := _unresolved(node)) is not None:
                return f"{key}.{inner[0]}", inner[1]
        elif OmegaConf.is_interpolation(values, key):
            try:
                values[key]
            except OmegaConfBaseException:
                return str(key), str(node._value())
    return None


def _unfollowed(said: str) -> str:
    """Returns what is wrong with a ${...}, from OmegaConf's words."""
    named = re.search(r"Interpolation key '([^']*)'", said)
    what = f"no setting is named {named[1]}" if named else "its ${...} cannot be followed"
    return f"{what}; a $ in a text is written \\$"


def _is_theirs(error: BaseException) -> bool:
    """Returns whether Hydra, or a package that it builds on, raised the error or wrapped one of ours in it."""
    if isinstance(error, HydraException | OmegaConfBaseException | RecursionError):
        return True
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    module = frame.tb_frame.f_globals.get("__name__", "") if frame else ""
    return module.partition(".")[0] in _THEIRS


def explain(error: Exception, overrides: Sequence[str], config_name: str) -> UserError:
    """Returns the one-line error for an exception of Hydra or OmegaConf."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, UserError):  # from one of our own resolvers
            return inner
        inner = inner.__cause__ or inner.__context__
    text = str(error).strip() or str(error.__cause__ or error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if nameless := next((o for o in overrides if o.lstrip("+~")[:1] in ("", "=")), None):
        return _unreadable(nameless)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _unknown_option(error.missing_cfg_file)
    match = re.search(r"Could not (override|append to config|delete from config)\W+'?([\w./@-]*)", text)
    if match and match[1] == "override":
        return _unknown_key(match[2], overrides, config_name)
    if isinstance(error, yaml.YAMLError):
        return yaml_files.explain(
            "--config-dir", getattr(getattr(error, "problem_mark", None), "name", ""), error
        )
    if isinstance(error, RecursionError):
        chosen = next((o for o in reversed(overrides) if o.partition("=")[0] in groups()), "config=")
        return UserError(chosen.partition("=")[0], chosen.partition("=")[2], "its defaults lead in a circle")
    override = _blamed(error, text, [_typed(word) for word in overrides])
    key, _, value = override.partition("=")
    if not key:
        return UserError("word", override, "must be key=value")
    if "requires --multirun" in text or "Ambiguous value" in text:
        return _several(key, value, override)
    if "An item is already at" in text or "is already in" in text:
        return UserError(key, value, "exists already: write it without the +")
    if key.startswith("~"):
        return UserError(key, value, "there is no such setting to leave out")
    if "Config group override must be" in text or (
        isinstance(error, TypeError) and not _is_option(key, value)
    ):
        names = groups().get(key, [])
        return UserError(
            key or "word",
            value or override,
            f"must be one of {', '.join(names)}" if names else "must be key=value",
        )
    if isinstance(error, InterpolationResolutionError | GrammarParseError):
        return UserError(key, value, _unfollowed(text))
    return UserError(key, value, " ".join(text.split("\n")[0].split()))


def _several(key: str, value: str, override: str) -> UserError:
    said = f"several values are for hpctrain sweep; as one text they are written {_quoted(override)}"
    return UserError(key, value, said)


def _blamed(error: Exception, text: str, overrides: Sequence[str]) -> str:
    """Returns the override that an error is about: the one with the longest key that it names, else the likeliest."""
    named = str(getattr(error, "full_key", None) or "")
    if "Config group override must be" in text:
        unnamed = [o for o in overrides if o.partition("=")[0] in ("", *groups()) and "=" in o]
        known = groups()
        return next(
            (o for o in unnamed if o.partition("=")[2] not in known.get(o.partition("=")[0], ())), "word="
        )
    for override in sorted(overrides, key=lambda o: -len(o.partition("=")[0])):
        key = override.partition("=")[0].lstrip("+~")
        if key and (key == named or re.search(rf"(?<![\w.]){re.escape(key)}(?![\w.])", text)):
            return override
    if isinstance(error, InterpolationResolutionError | GrammarParseError):
        return next((o for o in overrides if "${" in o), f"{named or 'word'}=")
    if not named and (unfit := [o for o in overrides if not _is_option(*o.partition("=")[::2])]):
        return unfit[0]
    return f"{named}=" if named else overrides[0] if len(overrides) == 1 else "settings="


def _is_option(key: str, value: str) -> bool:
    """Returns whether `value` names an option of the group `key`; True if there is no such group."""
    return value in groups().get(key, [value])


def _typed(word: str) -> str:
    """Returns the word as the user wrote it, before `spelled_out`."""
    return word.removeprefix("++") if _FREE.fullmatch(word.removeprefix("++")) else word


def _quoted(override: str) -> str:
    """Returns how to type a setting whose value is text: quoted for Hydra, then for the shell."""
    key, _, value = override.partition("=")
    plain = value.strip("\"'").replace("\\", "\\\\").replace('"', '\\"')
    return shlex.quote(f'{key}="{plain}"')


def _unreadable(override: str) -> UserError:
    """Returns the error for a word that Hydra cannot parse; it says how to write the word."""
    override = _typed(override)
    key, equals, value = override.partition("=")
    if not equals:
        names = groups()["experiment"]
        return UserError(
            "word",
            override,
            "must be key=value, or the name of a recipe, which comes first",
            meant(override, names),
        )
    if not _is_key(key):
        return UserError(
            "word",
            override,
            "must be key=value, and a key is names joined by dots, such as optimizer.lr: letters, digits and _, "
            "no digit first",
        )
    return UserError(
        key,
        value,
        f"cannot be read as a value; as text it is written {_quoted(override)}, a list {key}=[1,2]",
    )


def _is_key(text: str) -> bool:
    """Returns whether Hydra takes `text` as the key of a setting."""
    try:
        (override,) = OverridesParser.create().parse_overrides([f"{text}=1"])
    except HydraException:
        return False
    return bool(override.key_or_group)


def _unknown_option(path: str) -> UserError:
    group, _, name = path.partition("/") if path.partition("/")[0] in groups() else path.rpartition("/")
    if not group:
        return UserError("--config-name", name, "there is no such file in conf/", "config")
    names = groups().get(group, [])
    if not names:
        return UserError(
            group, name, f"there is no such group: {', '.join(groups())}", meant(group, groups())
        )
    near = _option_of_a_group(name) if group == "experiment" else None
    return UserError(group, name, f"must be one of {', '.join(names)}", near or nearest(name, names))


def _option_of_a_group(name: str) -> str | None:
    """Returns how a bare word is written that names no recipe, but an option of a group: model=resnet50."""
    return next((f"{group}={name}" for group, options in groups().items() if name in options), None)


def _unknown_key(key: str, overrides: Sequence[str], config_name: str) -> UserError:
    """Returns the error for an unknown setting; it names the nearest one that exists with the same groups chosen."""
    words = [o for o in spelled_out(overrides) if "=" in o and o[0] != "-"]
    parsed = OverridesParser.create().parse_overrides(words)
    chosen = [
        o.input_line for o in parsed
        if o.key_or_group in groups() and o.key_or_group != key and not o.is_sweep_override()
    ]  # fmt: skip
    value = next((o.get_value_string() for o in parsed if o.key_or_group == key), "")
    with hydra_in_conf([]):
        raw: Any = OmegaConf.to_container(hydra_compose(config_name, [line for line in chosen if line]))
    raw.pop("hydra", None)
    names = [*_flat_keys(raw), *groups()]
    if key == "experiment":  # of a command that takes no recipe
        return UserError("word", value, "must be key=value", _option_of_a_group(value))
    if key in names:
        return UserError(key, value, "is chosen by a group that is left out or does not have it")
    return UserError(key, value, "unknown setting", meant(key, names))


def _flat_keys(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat_keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
