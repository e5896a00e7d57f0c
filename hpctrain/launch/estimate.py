"""Estimates what a run will cost before it starts: FLOPs, its time at the devices' roofline, node-hours asked for.

Takes a configuration; returns figures with units in their names. The network is counted on the meta device
(nothing is allocated); the count is kept in the user's cache, so that the next submission of the same
network needs no torch.
"""

from __future__ import annotations

import dataclasses
from typing import NotRequired, TypedDict

from hpctrain import hardware
from hpctrain.config.image_sizes import sized
from hpctrain.config.settings import Config
from hpctrain.data import count_samples, sampler
from hpctrain.errors import Uncounted
from hpctrain.flops.known import counted
from hpctrain.flops.step import StepWork, work_of
from hpctrain.scheduler import sbatch

POOR = 0.5  # submit warns about an efficiency below this


class Estimate(TypedDict):
    """What a run will cost.

    `flops_total` is None if the network's operations are not known, and `uncounted` says why. `lower_bound_s`, the time
    at the roofline (flops/roofline.py), is None then too, and if no peak of the device is known.
    """

    steps: int
    samples: int
    flops_total: float | None
    uncounted: NotRequired[str]
    lower_bound_s: float | None
    node_hours_max: NotRequired[float]  # Slurm's runs


class Expected(TypedDict):
    """What the calibration of a cluster expects: seconds of all training steps, efficiency against single GPUs."""

    expected_s: float
    expected_efficiency: float


def estimate(config: Config, work: StepWork | Uncounted | None = None) -> Estimate:
    """Returns steps, samples and FLOPs of the whole run, and its time at the devices' roofline.

    `work` is what `step_work` returned or raised for the run, if the caller has it already.
    """
    steps, samples = length(config)
    facts: Estimate = {"steps": steps, "samples": samples, "flops_total": None, "lower_bound_s": None}
    if config.cluster.kind == "slurm":
        facts["node_hours_max"] = sbatch.node_hours(config)
    try:
        parts = _stretches(config, work, steps, samples)
    except Uncounted as why:
        facts["uncounted"] = str(why)
        return facts
    facts["flops_total"] = sum(
        count * (part.forward_flops + part.backward_flops) + updates * part.optimizer_flops * config.ranks
        for count, updates, part in parts
    )
    device = hardware.find(config.cluster.device) if config.cluster.device else None
    precision = "fp32" if config.precision.name == "fp32" else "bf16"
    if device is not None and precision in device.flops:
        roofline_s = 0.0
        for count, updates, part in parts:
            sample_s, update_s = part.roofline_s(device, part.format(device, precision))
            roofline_s += count / config.ranks * sample_s + updates * update_s
        facts["lower_bound_s"] = roofline_s
    return facts


def _stretches(
    config: Config, work: StepWork | Uncounted | None, steps: int, samples: int
) -> list[tuple[int, int, StepWork]]:
    """Returns (samples, steps, work per step) of each stretch: one in all, or one per size of progressive resizing."""
    if isinstance(work, Uncounted):
        raise work
    sizes = config.train.image_sizes
    if not sizes:
        return [(samples, steps, work or step_work(config))]
    per_epoch, each = _epoch(config)
    ends = [epoch for epoch, _ in sizes[1:]]
    places = [(min(samples, e * each), min(steps, e * per_epoch)) for e in (0, *ends)] + [(samples, steps)]
    return [
        (after[0] - before[0], after[1] - before[1], step_work(config, pixels))
        for before, after, (_, pixels) in zip(places, places[1:], sizes, strict=False)
    ]


def length(config: Config) -> tuple[int, int]:
    """Returns optimiser steps and samples of the whole run."""
    train = config.train
    per_epoch, samples = _epoch(config)
    if train.steps is None:
        return (train.epochs or 0) * per_epoch, (train.epochs or 0) * samples
    epochs, rest = divmod(train.steps, per_epoch) if per_epoch else (0, 0)
    return train.steps, epochs * samples + rest * config.effective_batch


def _epoch(config: Config) -> tuple[int, int]:
    """Returns the steps and samples of an epoch."""
    samples, batch = count_samples(config.data), config.effective_batch
    steps = sampler.steps_per_epoch(samples, batch, config.data.drop_last)
    return steps, min(samples, steps * batch)


def step_work(config: Config, pixels: int | None = None) -> StepWork:
    """Returns the work of one forward and backward pass over a rank's batch, and of one update.

    `pixels` is the side of the images if it differs from the data set's own. Raises Uncounted.
    """
    model, batch = config.model, config.train.batch_size
    if not config.train.flops:
        raise Uncounted("train.flops=false")
    if model.target is not None:
        from hpctrain import flops, models
        from hpctrain.tasks import rehearsal

        network = models.build(model.name, model.settings, device="meta", target=model.target)
        inputs = rehearsal.inputs(config, batch, pixels)
        return flops.step_work(network, inputs, config.optimizer, samples=batch)
    settings = model.settings if pixels is None else sized(config, pixels)
    if hasattr(settings, "example_length") and config.data.sequence_length:
        settings = dataclasses.replace(settings, example_length=config.data.sequence_length)
    return work_of(counted(model.name, settings, batch), config.optimizer, batch)


def roofline_shown(roofline_s: float | None) -> str:
    """Returns the time at the devices' roofline as text; None: it is unknown."""
    if roofline_s is None:
        return "time at the roofline unknown (no peak for this device)"
    return f"{roofline_s / 60:.1f} min at these devices' roofline"


def hours_shown(node_hours: float) -> str:
    """Returns the most that jobs may cost as text."""
    return f"asks for {node_hours:.2f} node-hours at most"


def shown(facts: Estimate, expected: Expected | None) -> str:
    """Returns the estimate as lines for people. `expected` is None without a calibration."""
    length = f"{facts['steps']:,} steps over {facts['samples']:,} samples"
    if facts["flops_total"] is None:
        parts = [f"{length}, FLOPs unknown: {facts.get('uncounted')}"]
    else:
        parts = [f"{length}, {facts['flops_total']:.3g} FLOPs", roofline_shown(facts["lower_bound_s"])]
    if "node_hours_max" in facts:
        parts.append(hours_shown(facts["node_hours_max"]))
    lines = ["; ".join(parts)]
    if expected is not None:
        lines.append(
            f"expected from the cluster's calibration: {expected['expected_s'] / 60:.3g} min of training steps, at "
            f"{expected['expected_efficiency']:.0%} of what the same number of single GPUs would do"
        )
        if expected["expected_efficiency"] < POOR:
            lines.append(
                f"warning: less than {POOR:.0%} efficient; hpctrain forecast says where it would be more"
            )
    return "\n".join(lines)
