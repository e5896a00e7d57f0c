"""What turns an evaluation into scores: filled batch by batch on each rank, scored once from the parts of all ranks.

Takes what the model returned and the task's sums; returns named scores. No collectives, no files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from hpctrain.data.sampler import Indices


class Evaluator(Protocol):
    """The scores of one evaluation. Each rank has one, for the samples that it takes, which may be none.

    Scores that depend on the order of samples are computed in the order of their indices: how many ranks there are, and
    which of them took a sample, then changes nothing.
    """

    def add(self, output: Any, batch: tuple[Tensor, ...], sums: Tensor, indices: Indices) -> None:
        """Take one batch (tensors of B samples each) and what the model returned for it.

        `sums` (task.width,) are the task's; `indices` (B,) are the samples' places in the data set. What is kept
        belongs on the host: an evaluation takes the whole data set.
        """

    def part(self) -> Any:
        """Returns what this rank adds to the scores: plain data or NumPy arrays, which can be pickled."""

    def scores(self, parts: list[Any]) -> dict[str, float]:
        """Returns the named scores, `loss` among them, of the parts of all ranks, in order of rank.

        Called on rank 0 alone, in a thread of its own; it may take long.
        """


class SummedScores:
    """Scores that are functions of the task's sums over samples."""

    def __init__(self, width: int, summarise: Callable[[list[float]], dict[str, float]]) -> None:
        """`summarise` returns named scores of `width` sums."""
        self._summarise = summarise
        # Counts beyond 2^24 are not exact in float32.
        self._own = torch.zeros(width, dtype=torch.float64)

    def add(self, output: Any, batch: tuple[Tensor, ...], sums: Tensor, indices: Indices) -> None:
        """Add the sums (width,) of one batch; nothing else of it counts."""
        del output, batch, indices
        self._own = self._own.to(sums.device)  # there they stay: a GPU is not asked after each batch
        self._own += sums

    def part(self) -> list[float]:
        """Returns the sums of this rank's samples, `width` numbers."""
        own: list[float] = self._own.tolist()
        return own

    def scores(self, parts: list[list[float]]) -> dict[str, float]:
        """Returns the scores of the sums over all ranks."""
        return self._summarise([sum(values) for values in zip(*parts, strict=True)])
