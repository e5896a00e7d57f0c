"""What a `hpctrain flops` command line asks for. Imports neither torch nor, for plain requests, Hydra.

Takes overrides (`model=resnet50 input=3x224x224 batch=256`), gives the resolved plain configuration of
conf/flops.yaml. Reads conf/.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpctrain.errors import UserError

# What needs no composition: a group's option, or a value of the primary configuration.
_PLAIN = re.compile(r"(model|optimizer|input|batch|convention)=([A-Za-z0-9_]+)")
_SELECT = re.compile(r"\$\{oc\.select:[^,]+,(\$\{oc\.create:(?P<made>.*)\}|(?P<plain>.*))\}")


def resolve(overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration; `input` as (channels, height, width) lies in `model.input_shape`."""
    values = _quickly(overrides)
    if values is None:
        from hpctrain.compose import compose

        values = compose([f"input='{o[6:]}'" if o.startswith("input=") else o for o in overrides], "flops")
    shape = values.pop("input", None)
    if shape is not None:
        sizes = str(shape).replace(",", "x").split("x")
        if not all(size.isdecimal() and int(size) > 0 for size in sizes):
            raise UserError("input", shape, "must be sizes joined by x, as in 3x224x224")
        values["model"]["input_shape"] = [int(size) for size in sizes]
    return values


def _quickly(overrides: Sequence[str]) -> dict[str, Any] | None:
    """As Hydra composes plain choices, at a tenth of its time; None where Hydra is needed."""
    chosen = {}
    for override in overrides:
        found = _PLAIN.fullmatch(override)
        if not found:
            return None
        chosen[found[1]] = found[2]
    conf = _conf_dir()
    values = _read(conf / "flops.yaml")
    for entry in values.pop("defaults"):
        for group, default in entry.items() if isinstance(entry, dict) else ():
            name = chosen.pop(group, default)
            path = conf / group / f"{name}.yaml"
            if name is None:
                continue
            if not path.is_file():
                return None
            values[group] = _read(path)
            if "defaults" in values[group] or any(
                "${" in str(v) or v == "???" for v in values[group].values()
            ):
                return None
    import yaml

    return values | {key: yaml.safe_load(text) for key, text in chosen.items()}


def _conf_dir() -> Path:
    package = Path(__file__).resolve().parents[1]
    return next(path for path in (package / "conf", package.parent / "conf") if path.is_dir())


def _read(path: Path) -> dict[str, Any]:
    """A YAML file; settings taken from a data set, of which there is none here, have their defaults."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = path.read_text(encoding="utf-8")
    text = _SELECT.sub(lambda m: m["made"] or m["plain"], text)
    text = re.sub(r"(\d)[eE]-(\d)", r"\1e-\2", text)
    values: dict[str, Any] = yaml.load(text, Loader=loader)
    return values
