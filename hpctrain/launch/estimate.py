"""What a run will cost, before it starts: FLOPs, a lower bound on its time, node-hours asked for.

Takes a configuration; gives figures with units in their names. The network is counted on the meta device
(nothing is allocated); the count is kept in the user's cache, so that the next submission of the same
network needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import hpctrain
from hpctrain.config import Config, to_dict
from hpctrain.data import count_samples, sampler
from hpctrain.launch import slurm
from hpctrain.run_dir import read_json, replace_text


def estimate(config: Config) -> dict[str, Any]:
    """FLOPs of the whole run; the time that its devices need at their peak, where that is known."""
    work = step_flops(config)
    steps, samples = length(config)
    total = samples * work["sample"] + steps * work["optimizer"] * config.ranks
    facts: dict[str, Any] = {"steps": steps, "samples": samples, "flops_total": total}
    if config.cluster.kind == "slurm":
        facts["node_hours_max"] = slurm.node_hours(config)
    peak = _peak_flops_per_s(config)
    facts["lower_bound_s"] = total / (peak * config.ranks) if peak else None
    return facts


def length(config: Config) -> tuple[int, int]:
    """Optimiser steps and samples of the whole run."""
    train = config.train
    samples = count_samples(config.data)
    per_epoch = sampler.steps_per_epoch(samples, config.effective_batch)
    if train.steps is None:
        return (train.epochs or 0) * per_epoch, (train.epochs or 0) * samples
    epochs, rest = divmod(train.steps, per_epoch) if per_epoch else (0, 0)
    return train.steps, epochs * samples + rest * config.effective_batch


def step_flops(config: Config) -> dict[str, float]:
    """FLOPs of forward and backward pass for one sample, and of the optimiser for one step."""
    whole = to_dict(config)
    key = json.dumps(
        [hpctrain.__version__, whole["model"], whole["data"], whole["optimizer"]], sort_keys=True
    )
    folder = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "hpctrain" / "flops"
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    known = read_json(path)
    if known is None:
        known = _count(config)
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps(known))
    return known


def _count(config: Config) -> dict[str, float]:
    from hpctrain import flops, models

    model = config.model
    network = models.build(model.name, model.settings, device="meta", target=model.target)
    inputs = models.example_inputs(
        model.name,
        model.settings,
        1,
        input_shape=config.data.shape or None,
        length=config.data.sequence_length,
    )
    work = flops.step_work(network, inputs, config.optimizer)
    return {
        "sample": float(work.forward_flops + work.backward_flops),
        "optimizer": float(work.optimizer_flops),
        "params": work.params,
    }


def _peak_flops_per_s(config: Config) -> float | None:
    from hpctrain.flops.peaks import peak_flops

    device = config.cluster.device
    return peak_flops(device, "fp32" if config.precision.name == "fp32" else "bf16") if device else None


def shown(facts: dict[str, Any]) -> str:
    """The estimate for people."""
    bound = facts["lower_bound_s"]
    parts = [
        f"{facts['steps']:,} steps over {facts['samples']:,} samples, {facts['flops_total']:.3g} FLOPs",
        "no lower bound on the time: the device's peak is not known"
        if bound is None
        else f"at least {bound / 60:.1f} min at the devices' peak",
    ]
    if "node_hours_max" in facts:
        parts.append(f"asks for {facts['node_hours_max']:.2f} node-hours at most")
    return "; ".join(parts)
