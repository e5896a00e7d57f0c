"""From plain containers (of compose.py, or a run's config.yaml) to a checked `Config`, and back.

Imports neither Hydra nor torch. The only side effect is on sys.path.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from hpctrain.config.checks import check_shape, check_whole
from hpctrain.config.from_environment import put_back, references, resolve
from hpctrain.config.messages import of_another
from hpctrain.config.settings import Config, DataConfig, ModelConfig
from hpctrain.config.validate import validate
from hpctrain.errors import UserError, choose
from hpctrain.models.settings import NETWORKS, search


def model_config(values: Mapping[str, Any]) -> ModelConfig:
    """Returns the settings of the model group, which is flat as in conf/model. Raises UserError."""
    if not isinstance(values, Mapping):
        raise UserError("model", values, "must be a group of settings")
    rest: dict[str, Any] = resolve(dict(values), "model")
    own = {key: rest.pop(key) for key in ("name", "weights", "target", "target_folder") if key in rest}
    model: ModelConfig = validate(ModelConfig, own | {"settings": rest}, "model.")
    if model.target is not None:
        return model
    if model.name not in NETWORKS:
        raise choose("model.name", model.name, NETWORKS)
    has = {f.name for f in dataclasses.fields(NETWORKS[model.name].settings)}
    for key in (key for key in rest if key not in has):  # none of a right configuration
        if any(key == f.name for network in NETWORKS.values() for f in dataclasses.fields(network.settings)):
            raise of_another("model", model.name, key, rest[key])
    return dataclasses.replace(model, settings=validate(NETWORKS[model.name].settings, rest, "model."))


def from_dict(values: Mapping[str, Any], own: bool = True) -> Config:
    """Returns the checked `Config` of a resolved configuration in plain containers. Raises UserError.

    Adds the folder that holds a user's `model.target` to sys.path. If not `own`, others could have written the values:
    then the folder is not added, and references to environment variables raise UserError.
    """
    for key, text in () if own else references(dict(values)):
        raise UserError(key, text, "is not followed in a file that others could have written")
    rest = dict(values)
    data = validate(DataConfig, rest.get("data", {}), "data.")  # first: other settings use its sizes
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
    """Returns the plain containers that `from_dict` takes, JSON-able, with the model group flat again."""
    model = config.model
    settings = model.settings if isinstance(model.settings, Mapping) else dataclasses.asdict(model.settings)
    flat = {"name": model.name, "weights": model.weights, "target": model.target, **settings}
    if model.target_folder is not None:
        flat["target_folder"] = model.target_folder
    # Through JSON, so that mappings become dicts and tuples become lists.
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
