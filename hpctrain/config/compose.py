"""Hydra's side: overrides in, plain dictionaries out. The file that sees Hydra and OmegaConf.

Takes command-line overrides (`model=lenet optimizer.lr=0.1`), returns resolved configurations. Hydra's
own errors become one-line `UserError`s. Reads the conf/ folder and no data: config/derived.py says what stands for a
setting that the data says. Sweeps, the one other use of Hydra, are in config/sweep_grammar.py.
"""

from __future__ import annotations

import contextlib
import copy
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import hydra
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hpctrain.config import quick
from hpctrain.config.conf_files import conf_dir, groups
from hpctrain.config.data_kinds import DERIVED
from hpctrain.config.derived import mark
from hpctrain.errors import RunFailed, UserError, nearest

Derive = Callable[[Mapping[str, Any]], dict[str, Any]]


def _number(derive: Derive, setting: str, _parent_: DictConfig) -> Any:
    """`${vocabulary_size:}` and the like as a number: `derive` asks the data that the group `_parent_` names."""
    values = {str(key): _parent_[key] for key in _parent_ if key != setting} | {setting: mark(setting)}
    return derive({"data": values})["data"][setting]


def _register(derive: Derive | None = None) -> None:
    """Says what `${vocabulary_size:}` and the like in a data group become: marks, or numbers with `derive`."""
    for setting in DERIVED:
        resolver = partial(_number, derive, setting) if derive else partial(mark, setting)
        OmegaConf.register_new_resolver(setting, resolver, replace=True)


_register()


@contextlib.contextmanager
def hydra_in_conf(overrides: Sequence[str], config_name: str = "config") -> Iterator[None]:
    """Hydra with conf/ as its folder. Raises UserError for whatever Hydra or OmegaConf raises inside."""
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            yield
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise explain(error, overrides, config_name) from None


def compose(overrides: Sequence[str], config_name: str = "config") -> dict[str, Any]:
    """Returns the composed and resolved configuration as plain containers, without Hydra's own settings.

    Raises UserError.
    """
    with hydra_in_conf(overrides, config_name):
        return plain(hydra_compose(config_name, list(experiments(overrides))))


def change(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Returns `values`, a run's config.yaml, with some replaced as in `optimizer.lr=0.1`. Raises UserError."""
    changed: dict[str, Any] = copy.deepcopy(dict(values))
    for override in map(read_override, overrides):
        key, given = override.key_or_group, override.get_value_string()
        if key in groups():
            raise UserError(key, given, "single values can change here, no whole groups")
        node = quick.holder(changed, key)
        if node is None:
            raise UserError(key, given, "unknown setting", nearest(key, list(_flat_keys(changed))))
        node[key.rpartition(".")[2]] = override.value()
    return changed


def read_override(text: str) -> Override:
    """Returns one override as Hydra's grammar has it. Raises UserError."""
    try:
        (override,) = OverridesParser.create().parse_overrides([text])
    except (HydraException, ValueError) as error:
        raise explain(error, [text], "config") from None
    return override


def run_app(
    argv: Sequence[str],
    job: Callable[[dict[str, Any]], tuple[int, float | None]],
    derive: Derive | None = None,
) -> int:
    """Runs `job` as a Hydra application: all of Hydra's flags (`--cfg`, `--multirun`, ...) hold.

    `job` gets the composed settings; it returns an exit code, and what Hydra's sweepers should minimise. Returns
    the code; a multirun's is the largest. `derive` fills in what the data says if Hydra prints it (`--resolve`).
    """
    codes, here = [0], os.getpid()
    errors: list[UserError | RunFailed] = []

    def task(values: DictConfig) -> float | None:
        # Kept for our own one line: Hydra would print its own before it, and end a multirun.
        try:
            code, result = job(plain(values))
        except (UserError, RunFailed, OmegaConfBaseException) as error:
            if os.getpid() != here:  # a launcher's process: it tells ours only what is raised
                raise
            foreign = isinstance(error, OmegaConfBaseException)
            errors.append(explain(error, argv, "config") if foreign else error)  # type: ignore[arg-type]
            return None
        codes.append(code)
        return result

    argv = list(experiments(argv))
    # Hydra's parser takes settings in one piece: a flag among them would cut them in two.
    argv.sort(key=lambda word: word not in ("-m", "--multirun", "--resolve"))
    sys.argv = ["hpctrain", *argv]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # lets exceptions through to us, who say them in one line
    _register(derive if "--resolve" in argv else None)
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(task)()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise explain(error, [a for a in argv if not a.startswith("-")], "config") from None
    finally:
        _register()
    if errors:
        raise errors[0]
    return max(codes)


def experiments(argv: Sequence[str]) -> Iterator[str]:
    """A bare word is the name of an experiment."""
    taken = False
    for word in argv:
        bare = re.fullmatch(r"[A-Za-z0-9_]+", word) is not None and not taken
        taken = word.startswith("-") and word not in ("--multirun", "-m", "--resolve", "--help")
        yield f"experiment={word}" if bare else word


def plain(values: DictConfig) -> dict[str, Any]:
    """A composed configuration, resolved, as plain containers; Hydra's own settings left out."""
    OmegaConf.resolve(values)
    container: Any = OmegaConf.to_container(values)
    container.pop("hydra", None)
    return container  # type: ignore[no-any-return]


def explain(error: Exception, overrides: Sequence[str], config_name: str) -> UserError:
    """One line for whatever Hydra or OmegaConf complains of."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, UserError):  # from a resolver of our own
            return inner
        inner = inner.__cause__ or inner.__context__
    text = str(error).strip() or str(error.__cause__ or error)
    if isinstance(error, OverrideParseException):
        return UserError(error.override, "", f"cannot be read as key=value: {text.splitlines()[0]}")
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _unknown_option(error.missing_cfg_file)
    found = re.search(r"Could not override '([^']+)'", text)
    if found:
        return _unknown_key(found[1], overrides, config_name)
    given = next((o for o in overrides if o.split("=")[0] and o.split("=")[0] in text), None)
    key, _, value = (given or "config=").partition("=")
    cause = f": {error.__cause__}" if error.__cause__ else ""
    return UserError(key, value, " ".join(f"{text}{cause}".split()))


def _unknown_option(path: str) -> UserError:
    group, _, name = path.rpartition("/")
    names = groups().get(group, [])
    return UserError(group or "config", name, f"must be one of {', '.join(names)}", nearest(name, names))


def _unknown_key(key: str, overrides: Sequence[str], config_name: str) -> UserError:
    """Name the nearest setting that exists with the same groups chosen."""
    parsed = OverridesParser.create().parse_overrides([o for o in overrides if "=" in o])
    chosen = [o.input_line for o in parsed if o.key_or_group in groups() and o.input_line is not None]
    value = next((o.get_value_string() for o in parsed if o.key_or_group == key), "")
    try:
        names = list(_flat_keys(compose([c for c in chosen if c.partition("=")[0] != key], config_name)))
    except UserError as deeper:
        return deeper
    return UserError(key, value, "unknown setting", nearest(key, [*names, *groups()]))


def _flat_keys(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat_keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
