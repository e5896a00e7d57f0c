"""Tells a data set that reads ahead which steps will come, and measures whether it kept up with them.

Takes plans of batches; announces them to the data set and returns figures for the summary. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypedDict

import torch

from hpctrain import data
from hpctrain.config.image_sizes import image_size
from hpctrain.config.settings import Config
from hpctrain.data.images.streamed import StreamedImages, Wanted
from hpctrain.data.sampler import Share


def feeding(config: Config, device: torch.device) -> data.Feeding:
    """Returns what a data set needs to know to read ahead for this rank.

    The number of torch's threads is this rank's share of its node's cores (training/session.py).
    """
    return data.Feeding(
        batch_size=config.train.batch_size,
        largest=max((pixels for _, pixels in config.train.image_sizes), default=0),
        cores=config.resources.cpus_per_rank or torch.get_num_threads(),
        gpu=device.type == "cuda",
        seed=config.seed,
    )


def announce(dataset: Any, shares: Iterable[tuple[int, Share]], config: Config) -> None:
    """Tell a data set that reads ahead what this rank will ask for: (epoch, share) of each step to come."""

    def wanted() -> Iterator[Wanted]:
        for epoch, share in shares:
            for place in share.micro_batches(config.train.batch_size):
                yield Wanted(share.indices[place], epoch, image_size(config, epoch))

    if isinstance(dataset, StreamedImages):
        dataset.expect(wanted())


def waited(dataset: Any) -> tuple[float, int] | None:
    """Returns the seconds that this rank waited for its data set, and the number of processes that decode.

    None if the data set does not read ahead.
    """
    return (dataset.waited_s, dataset.workers) if isinstance(dataset, StreamedImages) else None


class Waiting(TypedDict):
    """The rank that waited longest for its data: for which share of the training time; its number of decoders."""

    waited_share: float
    rank: int
    workers: int


def kept_up(of_ranks: list[tuple[float, int] | None], train_s: float) -> Waiting | None:
    """Returns, for the summary, which share of the training time the slowest rank waited for its data.

    None if no data set reads ahead.
    """
    waits = [(*waited, rank) for rank, waited in enumerate(of_ranks) if waited is not None]
    if not waits or not train_s:
        return None
    waited_s, workers, rank = max(waits)
    return {"waited_share": waited_s / train_s, "rank": rank, "workers": workers}
