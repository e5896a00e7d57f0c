"""Tasks: what a batch, a loss and a metric mean. A plain dict from name to constructor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn

from hpctrain.config.settings import TaskConfig
from hpctrain.tasks.classification import Classification
from hpctrain.tasks.language_model import LanguageModelling, MaskedLanguageModelling
from hpctrain.tasks.speech_recognition import SpeechRecognition
from hpctrain.tasks.translation import Translation

# What a recurrent model hands from one batch to the next; the samples are dimension 1 of its tensors.
Carry = tuple[Tensor, ...] | None
Batch = tuple[Tensor, ...]


class Task(Protocol):
    """The loop knows models only through this.

    It is made from its settings and the training data. `loss` gives the sum over the samples of the batch
    of each sample's loss, and `sums`, a float32 vector of length `width` that adds up over batches and ranks;
    `summarise` makes named figures of it. The last `targets` tensors of a batch are not the model's inputs.
    """

    metric: str
    higher_is_better: bool
    width: int
    targets: int

    def loss(self, model: nn.Module, batch: Batch, carry: Carry) -> tuple[Tensor, Tensor, Carry]: ...

    def summarise(self, sums: list[float]) -> dict[str, float]: ...


TASKS: dict[str, Callable[[TaskConfig, Any], Any]] = {
    "classification": Classification,
    "language_model": LanguageModelling,
    "masked_language_model": MaskedLanguageModelling,
    "speech_recognition": SpeechRecognition,
    "translation": Translation,
}
