"""From composed settings to a checked `Config`; settings that depend on the data are derived here, not in composing.

The table config/data_kinds.py lists them for each kind (`derived`), with the functions that return them, which may
read the data. Values given by the user or by a run's config.yaml are numbers already: nothing is read for them.
"""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

from hpctrain.config.compose import compose
from hpctrain.config.data_kinds import kind_of
from hpctrain.config.derived import fill
from hpctrain.config.load import from_dict
from hpctrain.config.settings import Config, DataConfig
from hpctrain.config.validate import validate
from hpctrain.errors import UserError
from hpctrain.storage.ownership import readable


def load(overrides: Sequence[str]) -> Config:
    """Returns the checked configuration of one run. Raises UserError."""
    return configure(compose(overrides))


def configure(values: Mapping[str, Any]) -> Config:
    """Returns composed settings as a checked `Config`. Raises UserError."""
    return from_dict(derive(values))


def derive(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns composed settings (plain containers) with those that depend on the data filled in. Raises UserError."""
    filled: dict[str, Any] = fill(dict(values), lambda setting: _figure(setting, _data(values["data"])))
    return filled


def _data(values: Mapping[str, Any]) -> DataConfig:
    """Returns the data group, with None for settings that are not derived yet."""
    data: DataConfig = validate(DataConfig, fill(dict(values), lambda setting: None), "data.")
    return data


@functools.cache
@readable("data.path")
def _figure(setting: str, data: DataConfig) -> Any:
    """Returns a derived setting, computed once per process: the data is taken as unchanged, as in data/identify.py."""
    derived = kind_of(data.name).derived
    if setting not in derived:
        raise UserError(f"data.{setting}", "null", f"give a number: data.name={data.name} does not say it")
    return pkgutil.resolve_name(derived[setting])(data)
