"""Hydra's sweep grammar: one command line for many configurations. Besides compose.py the only user of Hydra.

Takes overrides (`optimizer.lr=0.01,0.1 seed=range(3) schedule=glob(*) train.clip_norm=interval(0.1,10)`), returns
what is swept and what is fixed. Composes any number of runs; runs that differ only in plain values cost a copy
each, not a composition by Hydra.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from hydra import compose as hydra_compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep
from omegaconf import OmegaConf

from hpctrain.config import compose
from hpctrain.config.conf_files import groups
from hpctrain.config.quick import assign
from hpctrain.config.swept import Choice, Interval, Swept
from hpctrain.errors import UserError


def parse(overrides: Sequence[str]) -> tuple[list[str], list[Swept]]:
    """Returns the fixed overrides, and what is swept. Raises UserError, for example for a sweep without values."""
    words = list(compose.spelled_out(overrides))
    with compose.hydra_in_conf(overrides):
        loader = GlobalHydra.instance().config_loader()
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(words)
        swept = [_swept(o) for o in parsed if o.is_sweep_override()]
    keys = [s.key for s in swept]
    for key in keys:
        others = [o.get_key_element().lstrip("+") for o in parsed].count(key.lstrip("+"))
        if others > 1:
            raise UserError(key, "", "is given twice: a sweep takes all values of a key in one place")
    fixed = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
    return fixed, swept


def _swept(override: Override) -> Swept:
    key, given = override.get_key_element(), override.get_value_string()
    if override.is_interval_sweep():
        value: Any = override.value()
        interval = Interval(key, value.start, value.end, "log" in value.tags, isinstance(value.start, int))
        if not interval.low < interval.high:
            raise UserError(key, given, "is empty: interval(a, b) needs a < b")
        if interval.log and interval.low <= 0:
            raise UserError(key, given, "a logarithmic interval needs 0 < a < b")
        return interval
    sweep = override.value()
    if isinstance(sweep, RangeSweep) and (not sweep.step or math.isnan(_steps(sweep))):
        raise UserError(key, given, "range(start, stop, step) needs a step other than 0")
    if isinstance(sweep, RangeSweep) and _steps(sweep) > 1e6:
        raise UserError(key, given, f"has {_steps(sweep):.3g} values, more than 1,000,000")
    values = tuple(dict.fromkeys(override.sweep_string_iterator()))
    if not values:
        raise UserError(key, given, "has no value")
    return Choice(key, values)


def _steps(sweep: RangeSweep) -> float:
    assert sweep.start is not None
    assert sweep.stop is not None
    return (float(sweep.stop) - float(sweep.start)) / float(sweep.step)


class Composer:
    """Composes runs that share the fixed overrides. Side effects: reads conf/ when a new base is needed."""

    def __init__(self, fixed: Sequence[str]) -> None:
        self._fixed = list(fixed)
        self._groups = set(groups())
        self._bases: dict[tuple[str, ...], tuple[dict[str, Any], frozenset[str]]] = {}
        self._values: dict[str, Any] = {}

    def compose(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Returns the same as compose.compose([*fixed, *overrides]). Raises UserError."""
        plain = {o for o in overrides if self._is_plain(o)}
        chosen = tuple(o for o in overrides if o not in plain)
        if chosen not in self._bases:
            self._bases[chosen] = self._base(chosen)
        values, referenced = self._bases[chosen]
        if any(_touches(o.partition("=")[0], referenced) for o in plain):
            return compose.compose([*self._fixed, *overrides])
        values = copy.deepcopy(values)
        for override in overrides:
            if override in plain and not assign(values, override.partition("=")[0], self._values[override]):
                return compose.compose([*self._fixed, *overrides])  # raises an error that explains the key
        return values

    def _is_plain(self, override: str) -> bool:
        """Returns whether the override looks like a plain assignment to one existing value, as `assign` does it."""
        key = override.partition("=")[0]
        if not re.fullmatch(r"[A-Za-z_][\w.]*", key) or key in self._groups:
            return False
        if override not in self._values:
            self._values[override] = compose.read_override(override).value()
        value = self._values[override]
        return not isinstance(value, dict) and "${" not in str(value)

    def _base(self, chosen: tuple[str, ...]) -> tuple[dict[str, Any], frozenset[str]]:
        overrides = [*self._fixed, *chosen]
        with compose.hydra_in_conf(overrides):
            config = hydra_compose("config", overrides)
            raw: Any = OmegaConf.to_container(config, resolve=False)
            raw.pop("hydra", None)
            return compose.plain(config), frozenset(_references(raw))


def _references(value: Any) -> Iterator[str]:
    """Yields every name in an interpolation anywhere in `value`."""
    if isinstance(value, dict):
        for child in value.values():
            yield from _references(child)
    elif isinstance(value, list):
        for child in value:
            yield from _references(child)
    elif isinstance(value, str) and "${" in value:
        yield from re.findall(r"[\w.]+", value)


def _touches(key: str, referenced: frozenset[str]) -> bool:
    """Returns whether an interpolation could depend on `key`. Relative names are compared by their last part."""
    last = key.rpartition(".")[2]
    return any(
        name == key or key.startswith(f"{name}.") or name.startswith(f"{key}.")
        or (name.startswith(".") and name.rpartition(".")[2] == last)
        for name in referenced
    )  # fmt: skip
