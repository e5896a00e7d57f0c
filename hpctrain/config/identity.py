"""A run's identity: the settings that differ from their defaults, and the contents of the user's files.

Takes a `Config` and digests of these contents (data/identify.py); returns ids, and refuses a changed setting.
Marks in config/settings.py give each settings field its role; a field without a mark is science. A value equal to
its default never counts, and a setting that is missing in a checkpoint has its default: so a new setting with a
neutral default changes no id, and every checkpoint still resumes. Changing a default changes what ids mean, so
tests/golden/defaults.json pins them. Pure, no I/O.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass
from typing import Any

from hpctrain.config.settings import Config
from hpctrain.errors import RunFailed
from hpctrain.storage.run_state import Reason

# Settings that determine which samples each step takes. If one changed in mid-run, samples would repeat or be left out.
FIXED = ("data", "effective_batch", "seed")
# Two keys in meta.json of version 0.1.0, and their present names.
_MOVED = {"reduction": "comm.reduction", "batch_norm_ranks": "comm.batch_norm_ranks"}


@dataclass(frozen=True)
class Setting:
    """One setting of a run. `role` is "science" or a mark of config/settings.py; `default` may be MISSING."""

    key: str
    value: Any
    default: Any
    role: str

    @property
    def counts(self) -> bool:
        """Whether it is part of the run's identity."""
        return self.role == "kind" or (self.role == "science" and self.value != self.default)


def settings_of(config: Config) -> Iterator[Setting]:
    """Yields every setting of the groups without a mark, in the order of `Config`, as plain values."""
    for group in dataclasses.fields(Config):
        value = getattr(config, group.name)
        if _role(group) != "science":
            continue
        if dataclasses.is_dataclass(value):
            yield from _fields(value, f"{group.name}.")
        else:
            yield Setting(group.name, _plain(value), _default(group), "science")
    # The product of batch_size, accumulate and ranks: no single field holds it.
    yield Setting("effective_batch", config.effective_batch, MISSING, "science")


def _fields(values: Any, prefix: str) -> Iterator[Setting]:
    for field in dataclasses.fields(values):
        value = getattr(values, field.name)
        if dataclasses.is_dataclass(value):  # a model's settings stand beside its name, as in conf/model
            yield from _fields(value, prefix)
        elif isinstance(value, Mapping):  # of a user's class: its defaults are unknown
            yield from (Setting(prefix + key, _plain(v), MISSING, "science") for key, v in value.items())
        else:
            yield Setting(prefix + field.name, _plain(value), _default(field), _role(field))


def _role(field: dataclasses.Field[Any]) -> str:
    return str(field.metadata.get("science", "science"))


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return _plain(field.default_factory())
    return MISSING if field.default is MISSING else _plain(field.default)


def _plain(value: Any) -> Any:
    """Returns the value as JSON stores it: lists instead of tuples."""
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def science(config: Config) -> dict[str, Any]:
    """Returns the settings that count for the identity, by group, as plain containers."""
    chosen: dict[str, Any] = {}
    for setting in settings_of(config):
        if setting.counts:
            group, dot, name = setting.key.partition(".")
            if dot:
                chosen.setdefault(group, {})[name] = setting.value
            else:
                chosen[group] = setting.value
    return chosen


def noted(config: Config) -> dict[str, Any]:
    """Returns `science` for a file, with digests instead of values that come from environment variables."""
    values = science(config)
    for setting in settings_of(config):
        group, dot, name = setting.key.partition(".")
        if setting.counts and dot and (_reference(setting.key, config) is not None):
            values[group][name] = _digest(setting.value)
    return values


def _reference(key: str, config: Config) -> str | None:
    """Returns the reference to a variable in the setting `key`, or in an item of its list; None without one."""
    given = config.from_environment.items()
    return next((text for place, text in given if f"{place}.".startswith(f"{key}.")), None)


def _digest(value: Any) -> str:
    return f"sha256:{hashlib.sha256(json.dumps(value).encode()).hexdigest()}"


def identity_hash(config: Config, contents: Mapping[str, Any]) -> str:
    """Returns the SHA-256, in hex, of the settings that count and of `contents`, the digests of the user's files."""
    values = {"settings": science(config), "contents": dict(contents)}
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def run_id(config: Config, contents: Mapping[str, Any]) -> str:
    """Returns `<name>-<10 hex digits of identity_hash>`: equal identities mean the same run."""
    name = config.run.name or f"{config.model.name}-{config.data.name}"
    return f"{name}-{identity_hash(config, contents)[:10]}"


def refuse_change(saved: Mapping[str, Any], config: Config) -> None:
    """Raises RunFailed(CONFIG_CHANGED), naming the first setting that differs from `saved`.

    `saved` is from `science` or `noted`. A setting that is missing there has its default; one that
    is not science now is not compared.
    """
    known = {setting.key: setting for setting in settings_of(config)}
    before = {_MOVED.get(key, key): value for key, value in _flat(saved)}
    for key in [*known, *(key for key in before if key not in known)]:
        now = known.get(key, Setting(key, None, None, "science"))
        if now.role not in ("science", "kind"):
            continue
        was = before.get(key, None if now.default is MISSING else now.default)
        if was in (now.value, _digest(now.value)):
            continue
        what = f"{key} is {_reference(key, config) or now.value}, but the run was made with {was}"
        if key.split(".")[0] in FIXED:
            raise RunFailed(
                Reason.CONFIG_CHANGED, f"{what}: samples would be taken twice or never; begin a new run"
            )
        if not config.checkpoint.allow_change:
            raise RunFailed(Reason.CONFIG_CHANGED, f"{what}; if that is meant: checkpoint.allow_change=true")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
