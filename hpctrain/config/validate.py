"""Plain values to a settings dataclass: pydantic checks types and bounds, messages.py says what is wrong. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from hpctrain.config.messages import explain
from hpctrain.config.settings import (
    AdamConfig,
    CheckpointConfig,
    ClusterConfig,
    CommConfig,
    Config,
    DataConfig,
    LarsConfig,
    PrecisionConfig,
    ResourcesConfig,
    RunConfig,
    ScheduleConfig,
    SgdConfig,
    TaskConfig,
    TrainConfig,
)


def validate(kind: Any, values: Mapping[str, Any], prefix: str) -> Any:
    """Returns `values` as an instance of the dataclass `kind`. Raises UserError; its keys get `prefix`."""
    try:
        return _adapter(kind).validate_python(values)
    except ValidationError as error:
        raise explain(error.errors(), prefix, lambda where: _neighbours(kind, where)) from None


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        parts: tuple[Any, ...] = (kind, *_NESTED) if kind is Config else (kind,)
        for part in parts:
            part.__pydantic_config__ = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


_NESTED = (
    DataConfig, TaskConfig, SgdConfig, AdamConfig, LarsConfig, ScheduleConfig, PrecisionConfig,
    TrainConfig, CommConfig, ResourcesConfig, ClusterConfig, RunConfig, CheckpointConfig,
)  # fmt: skip


def _neighbours(kind: Any, where: list[str]) -> list[str]:
    """The settings of the dataclass that holds the last key of `where`."""
    for part in where[:-1]:
        kind = {"optimizer": SgdConfig}.get(part) or next(
            (k for k in _NESTED if k.__name__.lower() == f"{part}config"), None
        )
    return [f.name for f in dataclasses.fields(kind)] if kind else []
