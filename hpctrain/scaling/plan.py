"""Plans a scaling study from its settings: a list of runs, each with its GPUs and batch, in order of submission.

Pure: takes settings and a run's configuration, returns configurations. No I/O, no torch.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from annotated_types import Ge
from typing_extensions import TypedDict

from hpctrain.config.settings import Config, Count, DataConfig, Positive, PositiveFloat, ScheduleConfig
from hpctrain.config.validate import validate
from hpctrain.data.identify import run_id
from hpctrain.errors import UserError
from hpctrain.scaling import comm_settings
from hpctrain.scaling.comm_settings import CommSetting
from hpctrain.scaling.network import Shape


@dataclass(frozen=True)
class ScalingConfig:
    """The `scaling` group; conf/scaling_base.yaml explains each setting."""

    gpus: tuple[Positive, ...]
    mode: Literal["strong", "weak"] = "strong"
    batch: Positive | None = None
    repeats: Positive = 3
    windows: Positive = 4
    window_steps: Positive = 10
    warmup_windows: Positive = 1
    profile_steps: Count = 5
    data: Literal["own", "synthetic", "both"] = "own"
    epochs: PositiveFloat | None = None
    one_at_a_time: bool = True
    exclusive: bool = True
    timeout_min: Positive = 15
    max_node_hours: PositiveFloat | None = None
    seed: Annotated[int, Ge(0)] = 0
    knobs: Mapping[str, Any] | None = None
    algorithm: Literal["auto", "ring", "double_tree", "halving", "recursive_doubling", "hierarchical"] = (
        "auto"
    )

    @property
    def steps(self) -> int:
        """Steps of each run, warm-up included."""
        return (self.warmup_windows + self.windows) * self.window_steps


Kind = Literal["own", "synthetic"]  # the experiment's data, or noise in their place


class PlannedRun(TypedDict):
    """A measurement's entry in scaling.json; `knob` is its comm setting if that differs from the study's."""

    run: str
    gpus: int
    nodes: int
    repeat: int
    data: Kind
    batch: int
    knob: CommSetting | None


@dataclass(frozen=True)
class Planned:
    """One measurement, which is a run of its own."""

    config: Config
    gpus: int
    nodes: int
    repeat: int
    data: Kind
    comm_setting: CommSetting | None = None  # set if it differs from the study's

    @property
    def run_id(self) -> str:
        """The id of this measurement's run."""
        return run_id(self.config)

    def facts(self) -> PlannedRun:
        """The measurement's entry in scaling.json."""
        return {
            "run": self.run_id, "gpus": self.gpus, "nodes": self.nodes, "repeat": self.repeat,
            "data": self.data, "batch": self.config.effective_batch, "knob": self.comm_setting,
        }  # fmt: skip


def scaling_config(values: Mapping[str, Any]) -> ScalingConfig:
    """Returns the checked `scaling` node of a composed configuration. Raises UserError."""
    settings: ScalingConfig = validate(
        ScalingConfig, dict(values) | {"gpus": gpu_counts(values["gpus"])}, "scaling."
    )
    return settings


def gpu_counts(given: Any) -> tuple[int, ...]:
    """Returns the counts of `1,2,4`, of a list, or of `1..1024` (doubled up to the last). Raises UserError."""
    text = ",".join(map(str, given)) if isinstance(given, list | tuple) else str(given).strip("[]")
    counts: list[int] = []
    for word in text.split(","):
        span = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", word.strip())
        if span is None or int(span[1]) < 1 or (span[2] and int(span[2]) < int(span[1])):
            raise UserError("scaling.gpus", given, "must be counts such as 1,2,4 or 1..1024")
        first, last = int(span[1]), int(span[2] or span[1])
        while first < last:
            counts.append(first)
            first *= 2
        counts.append(last)
    return tuple(sorted(set(counts)))


def shape(config: Config, gpus: int) -> Shape:
    """Returns whole nodes, or a part of one node, with `gpus` GPUs. Raises UserError if they do not divide."""
    per_node = config.ranks_per_node
    if gpus <= per_node:
        return Shape(1, gpus)
    if gpus % per_node:
        raise UserError(
            "scaling.gpus", gpus, f"must be at most {per_node} or a multiple of it, the GPUs per node"
        )
    return Shape(gpus // per_node, per_node)


def rank_batch(config: Config, settings: ScalingConfig, gpus: int) -> int:
    """Returns the samples of one rank in one forward pass. Raises UserError if the effective batch does not divide."""
    train = config.train
    if settings.mode == "weak":
        return train.batch_size
    whole = settings.batch or train.batch_size * train.accumulate
    each, rest = divmod(whole, gpus * train.accumulate)
    if rest or not each:
        by = f"{gpus} GPUs" + (f" × {train.accumulate} forward passes" if train.accumulate > 1 else "")
        raise UserError(
            "scaling.batch", whole, f"strong scaling keeps the effective batch, which {by} do not divide"
        )
    return each


def plan(config: Config, settings: ScalingConfig) -> list[Planned]:
    """Returns all runs of the study in the random order in which to submit them. Raises UserError."""
    if len(settings.gpus) < 2 and not settings.knobs:
        raise UserError("scaling.gpus", settings.gpus[0], "one count does not show scaling: give two or more")
    kinds: tuple[Kind, ...] = ("own", "synthetic") if settings.data == "both" else (settings.data,)
    planned = [
        measurement(config, settings, gpus, repeat, kind)
        for gpus in settings.gpus
        for kind in kinds
        for repeat in range(1, settings.repeats + 1)
    ]
    planned += [
        replace(
            measurement(other, settings, settings.gpus[-1], repeat, kinds[0], f"-{tried.key}-{tried.value}"),
            comm_setting=tried,
        )
        for tried, other in comm_settings.choices(config, settings.knobs or {})
        for repeat in range(1, settings.repeats + 1)
    ]
    random.Random(settings.seed).shuffle(planned)
    return planned


def measurement(
    config: Config,
    settings: ScalingConfig,
    gpus: int,
    repeat: int,
    kind: Kind,
    suffix: str = "",
) -> Planned:
    """Returns one repeat on `gpus` GPUs. Raises UserError."""
    on, batch = shape(config, gpus), rank_batch(config, settings, gpus)
    name = f"g{gpus}-r{repeat}{suffix}" + ("-synthetic" if kind == "synthetic" else "")
    return Planned(timed(config, settings, on, batch, name, kind), gpus, on.nodes, repeat, kind)


def timed(
    config: Config,
    settings: ScalingConfig,
    on: Shape,
    batch: int,
    name: str,
    kind: Kind,
) -> Config:
    """Returns `config` as a short timed run with the ranks of `on`, which saves and validates little."""
    whole = batch * config.train.accumulate * on.ranks
    data = synthetic(config.data) if kind == "synthetic" else config.data
    limit = min(whole, data.validation_limit or whole)
    return replace(
        config,
        data=replace(data, validation_limit=limit),
        train=replace(
            config.train,
            batch_size=batch,
            steps=settings.steps,
            epochs=None,
            log_every=settings.window_steps,
            profile=settings.profile_steps,
        ),
        resources=replace(
            config.resources,
            nodes=on.nodes,
            gpus_per_node=on.ranks_per_node,
            timeout_min=config.resources.timeout_min or settings.timeout_min,
            chain=1,
        ),
        cluster=replace(
            config.cluster, exclusive=settings.exclusive or config.cluster.exclusive, requeue=False
        ),
        run=replace(config.run, name=name),
        checkpoint=replace(
            config.checkpoint, every=settings.steps, every_min=None, keep_last=1, keep_best=False
        ),
    )


def synthetic(data: DataConfig) -> DataConfig:
    """Returns noise with the shape, classes and number of a set of images. Raises UserError for other data."""
    if not data.shape:
        raise UserError("scaling.data", "synthetic", f"needs a set of images; data={data.name} is not one")
    return replace(data, name="synthetic", path=None, pad=0)  # `shape` is the padded one


def calibration(config: Config, settings: ScalingConfig, repeat: int = 1) -> dict[str, Config]:
    """Returns one repeat of the profiled runs from which the model takes its parameters, by shape such as "1x2".

    The shapes are one rank; 2, 4, ... ranks of one node, which share memory and network card; and one rank on
    each of two nodes. Learning rate, schedule and seed are fixed, because they do not change a step's time.
    """
    counts = gpu_counts(f"1..{config.slots_of_node}")
    shapes = [Shape(1, c) for c in counts] + ([Shape(2, 1)] if (config.cluster.max_nodes or 2) > 1 else [])
    plain = replace(
        config,
        optimizer=replace(config.optimizer, lr=0.001),
        schedule=ScheduleConfig(),
        seed=0,
        run=replace(config.run, study=calibration_study(config)),
    )
    # The lengths are fixed, so that a calibration's run ids do not depend on how a study measures.
    profiled = replace(
        settings, windows=1, warmup_windows=1, window_steps=5, profile_steps=max(settings.profile_steps, 10)
    )
    suffix = f"-r{repeat}" if repeat > 1 else ""
    return {
        name: timed(plain, profiled, on, config.train.batch_size, name + suffix, "own")
        for on in shapes
        for name in (f"{on.nodes}x{on.ranks_per_node}",)
    }


def calibration_study(config: Config) -> str:
    """Returns the name of the study that holds the cluster's calibration runs."""
    return f"calibration-{config.cluster.name}"


def algorithm(settings: ScalingConfig, device: str) -> str:
    """Returns the algorithm's name as network.allreduce_s knows it."""
    if settings.algorithm == "auto":
        return "nccl" if device == "cuda" else "mpi"
    return settings.algorithm
