"""Checks of settings that are valid one by one but not together. Takes a `Config`; raises UserError. Pure, no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpctrain.config.data_kinds import Family, family, kind_of
from hpctrain.config.image_sizes import check_pictures
from hpctrain.config.tasks import TASK_KINDS, networks_of
from hpctrain.errors import UserError, choose, nearest

if TYPE_CHECKING:
    from hpctrain.config.settings import Config, DataConfig, ModelConfig

# The comm settings that a cluster preset may set and a scaling study may vary.
TUNED_COMM = ("bucket_mb", "fusion_threshold_mb", "cycle_time_ms", "hierarchical", "compression")


def check_whole(config: Config) -> None:
    """Raises UserError for settings that do not fit together."""
    train, data, ranks = config.train, config.data, config.ranks
    if train.epochs is None and train.steps is None:
        raise UserError("train.epochs", "null", "give train.epochs or train.steps")
    samples = min(data.train_samples or 0, data.train_limit or data.train_samples)
    if samples and ranks > samples:
        raise _too_many_ranks(config, samples)
    if config.cluster.kind == "local" and config.resources.nodes > 1:
        raise UserError("resources.nodes", config.resources.nodes, "must be 1 with cluster=local")
    for key, value in config.cluster.comm.items():
        if key not in TUNED_COMM:
            allowed = f"must be of {', '.join(sorted(TUNED_COMM))}"
            raise UserError(f"cluster.comm.{key}", value, allowed, nearest(key, TUNED_COMM))
    _check_comm(config)
    _check_task(config)
    check_pictures(config)


def check_shape(data: DataConfig) -> None:
    """Raises UserError for a kind that does not exist, and for images without a shape."""
    if kind_of(data.name).family in (Family.IMAGE, Family.PICTURE) and len(data.shape) != 3:
        raise UserError(
            "data.shape", list(data.shape), "must be channels, height and width, as in [3,224,224]"
        )


def _too_many_ranks(config: Config, samples: int) -> UserError:
    """Returns the error, for the setting that asks for too many ranks."""
    if config.cluster.kind == "local":
        key, value = "resources.ranks", config.ranks
    elif config.ranks_per_node > samples:
        key, value = "resources.gpus_per_node", config.ranks_per_node
    else:
        key, value = "resources.nodes", config.resources.nodes
    return UserError(key, value, f"{config.ranks} ranks: must be ≤ {samples}, the number of training samples")


def _check_comm(config: Config) -> None:
    """Raises UserError for settings that Adasum, group batch norm or Horovod's own optimiser does not support."""
    comm, ranks = config.comm, config.ranks
    if comm.reduction == "adasum" and ranks & (ranks - 1):
        raise UserError("comm.reduction", "adasum", f"needs 2, 4, 8, ... ranks, not {ranks}")
    if comm.batch_norm_ranks != "all" and ranks % comm.batch_norm_ranks:
        raise UserError(
            "comm.batch_norm_ranks", comm.batch_norm_ranks, f"must divide the {ranks} ranks, or be all"
        )
    if comm.batch_norm_ranks != 1 and config.precision.compile:
        raise UserError(
            "comm.batch_norm_ranks", comm.batch_norm_ranks, "must be 1 with precision.compile=true"
        )
    if comm.exchange == "buckets":
        return
    alone = f"comm.exchange={comm.exchange}: allowed with comm.exchange=buckets only"
    if comm.reduction != "mean":
        raise UserError("comm.reduction", comm.reduction, alone)
    if comm.compression != "none":
        raise UserError("comm.compression", comm.compression, alone)
    if config.optimizer.name == "lars":
        raise UserError("optimizer", "lars", alone)
    if config.precision.channels_last:
        raise UserError("precision.channels_last", "true", f"{alone} (Horovod sums contiguous tensors)")


def _unfit(model: ModelConfig, task: str) -> UserError:
    """Returns the error for a network that does not fit its task: which networks, and which other tasks, fit."""
    why = ""
    if TASK_KINDS[task].inputs == model.network.inputs:
        why = "sees what comes after, so it cannot predict the next token: "
    suited = [name for name, kind in TASK_KINDS.items() if kind.inputs and kind.fits(model.network)]
    also = f"; task={' or '.join(suited)} suits it" if suited else ""
    return UserError("model", model.name, f"{why}task={task} needs {', '.join(networks_of(task))}{also}")


def _check_task(config: Config) -> None:
    """Raises UserError unless task, network and data fit together."""
    task, model, data = config.task.name, config.model, config.data
    if task not in TASK_KINDS:
        raise choose("task.name", task, TASK_KINDS)
    kind = TASK_KINDS[task]
    if model.target is None and not kind.fits(model.network):
        raise _unfit(model, task)
    if kind.family is None:
        return
    if family(data.name) is not kind.family or data.vocabulary_size is None or data.sequence_length is None:
        raise UserError("data", data.name, f"task={task} needs other data, such as data={kind.example}")
    size = getattr(model.settings, "vocabulary_size", data.vocabulary_size)
    if size != data.vocabulary_size:
        raise UserError("model.vocabulary_size", size, f"must be data.vocabulary_size={data.vocabulary_size}")
