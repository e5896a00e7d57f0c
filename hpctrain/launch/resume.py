"""Prepares a run to start again, with the settings it had or with some of them changed.

Takes a run directory and overrides (`resources.ranks=4`), returns the configuration to go on with. With another
number of ranks, an optimiser step still takes as many samples. Side effects: `renew` replaces config.yaml.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from hpctrain.config.identity import science
from hpctrain.config.load import from_dict, to_dict
from hpctrain.config.settings import Config
from hpctrain.data import identify
from hpctrain.errors import UserError
from hpctrain.launch import prepare
from hpctrain.storage.config_file import write_config
from hpctrain.storage.run_dir import RunDir

BATCH = ("train.batch_size", "train.accumulate")


def configuration(run: RunDir, overrides: Sequence[str]) -> Config:
    """Returns the run's configuration with `overrides`.

    Raises UserError, also if settings or files that count have changed.
    """
    run.refuse_others()
    before = from_dict(run.own_config())
    if not overrides:
        identify.refuse_change(run, before)
        return before
    from hpctrain.config.compose import change

    config = from_dict(change(run.own_config(), overrides))
    if not any(override.startswith(BATCH) for override in overrides):
        config = with_batch(config, before.effective_batch)
    identify.refuse_settings(science(before), config)
    identify.refuse_change(run, config)
    prepare.check(config)
    return config


def with_batch(config: Config, effective_batch: int) -> Config:
    """Returns `config` with `effective_batch` samples per step: fewer per rank, or more forward passes per step.

    Raises UserError if the ranks do not divide it.
    """
    if config.effective_batch == effective_batch:
        return config
    per_rank, left = divmod(effective_batch, config.ranks)
    if left:
        divisors = [n for n in range(1, effective_batch + 1) if effective_batch % n == 0]
        near = min(divisors, key=lambda n: abs(n - config.ranks))
        raise UserError(
            "resources.ranks", config.ranks, f"must divide the {effective_batch} samples of a step", str(near)
        )
    size = max(n for n in range(1, config.train.batch_size + 1) if per_rank % n == 0)
    return replace(config, train=replace(config.train, batch_size=size, accumulate=per_rank // size))


def renew(run: RunDir, config: Config) -> str | None:
    """Writes `config` to config.yaml of a run that no process works on. Raises UserError.

    Returns a line for the user if the number of ranks or the science has changed.
    """
    before = from_dict(run.own_config())
    values = prepare.with_places(to_dict(config))
    if prepare.with_places(to_dict(before)) == values:
        return None
    identify.refuse_settings(science(before), config)
    write_config(run.config_file, values)
    if (before.ranks, science(before)) == (config.ranks, science(config)):
        return None
    note = {"ranks": config.ranks, "batch_size": config.train.batch_size}
    return f"{run.run_id} goes on with {json.dumps(note | {'accumulate': config.train.accumulate})}"
