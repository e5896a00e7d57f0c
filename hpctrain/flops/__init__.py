"""Operation counts: rules, both counts, rooflines, whole runs, tables. Torch is imported when first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpctrain.flops.count import count
    from hpctrain.flops.result import Count
    from hpctrain.flops.step import StepWork, step_work

_HOMES = {"Count": "result", "count": "count", "StepWork": "step", "step_work": "step"}
__all__ = ["Count", "StepWork", "count", "step_work"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"hpctrain.flops.{_HOMES[name]}"), name)
