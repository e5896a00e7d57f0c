"""Tasks: what a batch, a loss and a score mean. The table of tasks is config/tasks.py.

Imported by hpctrain.training and everything above it.
"""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from hpctrain.config.settings import TaskConfig
from hpctrain.config.tasks import TASK_KINDS, TaskKind
from hpctrain.tasks.evaluator import Evaluator, SummedScores

# What a recurrent model hands from one batch to the next; the samples are dimension 1 of its tensors.
Carry = tuple[Tensor, ...] | None
Batch = tuple[Tensor, ...]


class Task(ABC):
    """The loop knows models only through this.

    It is made from its settings and the training data. `loss` returns the sum over the samples of the batch
    of each sample's loss, and `sums`, a float32 vector of length `width` that adds up over batches and ranks;
    `summarise` makes named figures of it. The last `targets` tensors of a batch are not the model's inputs.
    """

    kind: TaskKind
    width: int
    targets: int

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, carry: Carry) -> tuple[Tensor, Tensor, Carry]:
        """Returns (summed loss, a scalar; sums (width,); the carry). `batch` is on the device of the model."""

    def summarise(self, sums: list[float]) -> dict[str, float]:
        """Returns named figures of `sums`, `width` numbers added up over batches and ranks: those of the task's row."""
        return self.kind.summarise(sums)

    def evaluator(self, dataset: Any) -> Evaluator:
        """Returns what scores one evaluation of `dataset`: by default, `summarise` of the sums over its samples."""
        del dataset
        return SummedScores(self.width, self.summarise)


def make_task(config: TaskConfig, train_set: Any) -> Task:
    """Returns the task that the settings name, for this training data."""
    kind = TASK_KINDS[config.name]
    task: Task = pkgutil.resolve_name(kind.task)(config, train_set)
    task.kind = kind
    return task
