"""Turns a configuration into a run directory that is ready to start, or finds the run that exists already.

Checks everything that can be wrong before a rank starts. Imports torch only for a user's own network or weights.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpctrain import hardware
from hpctrain.config.load import to_dict
from hpctrain.config.settings import Config
from hpctrain.data import identify
from hpctrain.data.check import check as check_data
from hpctrain.errors import UserError
from hpctrain.launch import local
from hpctrain.models.settings import check_target, check_weights
from hpctrain.storage.folders import absolute, check_root
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Phase
from hpctrain.storage.search import locate
from hpctrain.storage.secrets import refuse_secrets


def prepare(config: Config) -> RunDir:
    """Checks this machine and the data, makes and returns the run directory. Raises UserError; then nothing is left."""
    check(config)
    run = locate(config.run.root, config.run.study, identify.run_id(config))
    run.refuse_others()
    os.umask(0o077)
    run.create(with_places(to_dict(config)))
    run.refuse_others()
    identify.note(run, config)
    if config.cluster.kind == "local" or run.read_state().phase == Phase.DONE:
        identify.refuse_other_set(run, config)
    return run


def with_places(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a plain configuration whose relative paths, if they are there, are absolute.

    So the run finds the files again from any folder and node. The paths are not part of its identity.
    """
    data, model = dict(values["data"]), dict(values["model"])
    for group, key in ((data, "path"), (data, "source"), (model, "weights")):
        given = group.get(key)
        if given and not Path(given).is_absolute() and Path(given).exists():
            group[key] = str(absolute(given))
    top = str(model.get("target") or "").partition(":")[0].partition(".")[0]
    if top and not model.get("target_folder") and (Path(top).is_dir() or Path(f"{top}.py").is_file()):
        model["target_folder"] = str(absolute("."))
    return {**values, "data": data, "model": model}


def check(config: Config) -> None:
    """Raises UserError for anything wrong with a run that can be seen before a file is written."""
    refuse_secrets(to_dict(config))
    # A job's script refers to the variables of these; of the others it holds what the variables hold.
    refers = ("environment", "modules", "setup")
    held = {key: value for key, value in asdict(config.cluster).items() if key not in refers}
    refuse_secrets({"cluster": held})
    check_root(config.run.root)
    _check_model(config)
    if config.cluster.kind == "local":
        local.check(config)
        check_data(config.data)
    elif config.precision.name == "bf16" and config.cluster.device and config.resources.device != "cpu":
        device = hardware.find(config.cluster.device)
        if device is not None and "bf16" not in device.flops:
            raise UserError(
                "precision.name", "bf16", f"{device.name} computes no bfloat16; allowed: fp32, auto"
            )


def _check_model(config: Config) -> None:
    """Raises UserError for weights that do not fit and a target that cannot be trained: only torch can tell."""
    model = config.model
    if model.weights is None and model.target is None:
        return
    if model.target is not None:
        check_target(model.target)
    if model.weights is not None:
        check_weights(model.weights)
    if model.target is not None:
        from hpctrain.tasks import rehearsal

        rehearsal.play(config)
    else:
        from hpctrain import models

        models.build(model.name, model.settings, device="meta", weights=model.weights)
