"""A configuration as plain containers (from compose.py, or from a run's config.yaml) to a checked `Config`, and back.

Neither Hydra nor torch; no side effects but on sys.path.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from hpctrain.config.checks import check_whole
from hpctrain.config.settings import Config, ModelConfig
from hpctrain.config.validate import validate
from hpctrain.errors import choose
from hpctrain.models.settings import NETWORKS, search


def model_config(values: Mapping[str, Any]) -> ModelConfig:
    """Takes the model group, flat as in conf/model; returns it with its family's dataclass. Raises UserError."""
    rest = dict(values)
    name, weights, target = str(rest.pop("name", "")), rest.pop("weights", None), rest.pop("target", None)
    if target is not None:
        folder = rest.pop("target_folder", None)
        given = {
            "name": name,
            "settings": rest,
            "weights": weights,
            "target": target,
            "target_folder": folder,
        }
        custom: ModelConfig = validate(ModelConfig, given, "model.")
        return custom
    if name not in NETWORKS:
        raise choose("model.name", name, NETWORKS)
    return ModelConfig(name, validate(NETWORKS[name].settings, rest, "model."), weights)


def from_dict(values: Mapping[str, Any]) -> Config:
    """Takes a resolved configuration, as plain containers; returns a checked `Config`. Raises UserError.

    From then on this process finds a user's `model.target` in the folder where the run's maker found it.
    """
    rest = dict(values)
    model = model_config(rest.pop("model", {}))
    rest.pop("sweep", None), rest.pop("scaling", None)
    config: Config = validate(Config, rest | {"model": model}, "")
    check_whole(config)
    if config.model.target_folder is not None:
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
            }
        )
    )
    return plain


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]
