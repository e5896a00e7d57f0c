"""A configuration as plain containers (from compose.py, or from a run's config.yaml) to a checked `Config`, and back.

Neither Hydra nor torch; no side effects but on sys.path.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from hpctrain.config.checks import check_shape, check_whole
from hpctrain.config.from_environment import put_back, references, resolve
from hpctrain.config.settings import Config, DataConfig, ModelConfig
from hpctrain.config.validate import validate
from hpctrain.errors import UserError, choose
from hpctrain.models.settings import NETWORKS, search


def model_config(values: Mapping[str, Any]) -> ModelConfig:
    """Takes the model group, flat as in conf/model; returns it with its family's dataclass. Raises UserError."""
    if not isinstance(values, Mapping):
        raise UserError("model", values, "must be a group of settings")
    rest: dict[str, Any] = resolve(dict(values), "model")
    own = {key: rest.pop(key) for key in ("name", "weights", "target", "target_folder") if key in rest}
    model: ModelConfig = validate(ModelConfig, own | {"settings": rest}, "model.")
    if model.target is not None:
        return model
    if model.name not in NETWORKS:
        raise choose("model.name", model.name, NETWORKS)
    return dataclasses.replace(model, settings=validate(NETWORKS[model.name].settings, rest, "model."))


def from_dict(values: Mapping[str, Any], own: bool = True) -> Config:
    """Takes a resolved configuration, as plain containers; returns a checked `Config`. Raises UserError.

    From then on this process finds a user's `model.target` in the folder where the run's maker found it. Not `own`:
    others could have written the values, so they name no such folder, and no variables of this user's shell.
    """
    for key, text in () if own else references(dict(values)):
        raise UserError(key, text, "is not followed in a file that others could have written")
    rest = dict(values)
    data = validate(DataConfig, rest.get("data", {}), "data.")  # before what takes its sizes from there
    check_shape(data)
    model = model_config(rest.pop("model", {}))
    rest.pop("sweep", None), rest.pop("scaling", None)
    config: Config = validate(Config, rest | {"model": model, "data": data}, "")
    config = dataclasses.replace(config, from_environment=dict(references(dict(values))))
    check_whole(config)
    if own and config.model.target is not None and config.model.target_folder is not None:
        search(config.model.target_folder)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """The inverse of `from_dict`: returns what JSON can hold, with the model group flat again."""
    model = config.model
    settings = model.settings if isinstance(model.settings, Mapping) else dataclasses.asdict(model.settings)
    flat = {"name": model.name, "weights": model.weights, "target": model.target, **settings}
    if model.target_folder is not None:
        flat["target_folder"] = model.target_folder
    # dict() of Mapping fields, lists for tuples: what JSON and YAML can say.
    plain: dict[str, Any] = json.loads(
        json.dumps(
            {
                f.name: flat if f.name == "model" else _plain(getattr(config, f.name))
                for f in dataclasses.fields(config)
                if f.name != "from_environment"
            }
        )
    )
    for key, text in config.from_environment.items():
        put_back(plain, key, text)
    return plain


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]
