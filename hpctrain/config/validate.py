"""From plain values to a settings dataclass: pydantic checks types and bounds, messages.py words the errors. No torch.

Every text must be without control characters, because it reaches sbatch scripts, shells and terminals.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from hpctrain.config.from_environment import resolve
from hpctrain.config.messages import explain
from hpctrain.config.settings import (
    AdamConfig,
    CheckpointConfig,
    ClusterConfig,
    CommConfig,
    Config,
    DataConfig,
    LarsConfig,
    ModelConfig,
    PrecisionConfig,
    ResourcesConfig,
    RunConfig,
    ScheduleConfig,
    SgdConfig,
    TaskConfig,
    TrainConfig,
)
from hpctrain.errors import UserError
from hpctrain.shown import CONTROL


def validate(kind: Any, values: Mapping[str, Any], prefix: str) -> Any:
    """Returns `values` as an instance of the dataclass `kind`. Raises UserError; its keys get `prefix`.

    References `${oc.env:NAME}` in them are resolved.
    """
    if not isinstance(values, Mapping):
        raise UserError(prefix.rstrip("."), values, "must be a group of settings")
    place = prefix.rstrip(".")
    values = resolve(dict(values), place)
    _refuse_control(values, place)
    try:
        settings = _adapter(kind).validate_python(values)
    except ValidationError as error:
        raise explain(error.errors(), prefix, lambda where: _neighbours(kind, where)) from None
    _refuse_yes_for_number(values, settings, place)
    return settings


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        parts: tuple[Any, ...] = (kind, *_NESTED) if kind is Config else (kind,)
        for part in parts:
            part.__pydantic_config__ = ConfigDict(
                extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False
            )
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


_NESTED = (
    ModelConfig, DataConfig, TaskConfig, SgdConfig, AdamConfig, LarsConfig, ScheduleConfig, PrecisionConfig,
    TrainConfig, CommConfig, ResourcesConfig, ClusterConfig, RunConfig, CheckpointConfig,
)  # fmt: skip


def _refuse_control(values: Any, key: str) -> None:
    """Raises UserError for a text or a key that has a line break or another control character."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            _refuse_control(str(name), key)
            _refuse_control(value, f"{key}.{name}" if key else str(name))
    elif isinstance(values, list):
        for value in values:
            _refuse_control(value, key)
    elif isinstance(values, str) and (match := CONTROL.search(values)):
        raise UserError(
            key, ascii(values), f"must be plain text without line breaks: {match[0]!a} cannot stand in it"
        )


def _refuse_yes_for_number(given: Any, taken: Any, key: str) -> None:
    """Raises UserError if a `given` true or false was `taken` as a number, which Python would allow."""
    if isinstance(given, Mapping):
        for name, value in given.items():
            read = taken.get(name) if isinstance(taken, Mapping) else getattr(taken, str(name), None)
            _refuse_yes_for_number(value, read, f"{key}.{name}" if key else str(name))
    elif isinstance(given, list | tuple) and isinstance(taken, list | tuple):
        for pair in zip(given, taken, strict=False):
            _refuse_yes_for_number(*pair, key)
    elif isinstance(given, bool) and isinstance(taken, int | float) and not isinstance(taken, bool):
        raise UserError(key, str(given).lower(), "must be a number")


def _neighbours(kind: Any, where: list[str]) -> list[str]:
    """Returns the settings of the dataclass that holds the last key of `where`."""
    for part in where[:-1]:
        kind = {"optimizer": SgdConfig}.get(part) or next(
            (k for k in _NESTED if k.__name__.lower() == f"{part}config"), None
        )
    return [f.name for f in dataclasses.fields(kind)] if kind else []
