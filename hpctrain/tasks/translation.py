"""Translation: cross-entropy of each next word of the target, padding left out.

B sentence pairs, S words, N words in the vocabulary. A batch is (source (B, S), its words (B,), target so far
(B, S), the words that follow it (B, S)). Sums are (loss in nats, right words, words). A mixture of experts
adds its balancing losses, one for each word of the batch as the main loss is.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hpctrain.config.settings import TaskConfig
from hpctrain.data.translation.source import PADDING
from hpctrain.models.losses import cross_entropy, with_auxiliary
from hpctrain.models.outputs import parts
from hpctrain.tasks import Batch, Carry, Task


class Translation(Task):
    """A sample's loss is the mean over the words of its target."""

    width = 3
    targets = 1

    def __init__(self, config: TaskConfig, dataset: Any) -> None:
        del dataset
        self._smoothing = config.label_smoothing

    def loss(self, model: nn.Module, batch: Batch, carry: Carry) -> tuple[Tensor, Tensor, Carry]:
        """Returns (summed mean loss of each pair, a scalar; sums (3,); the carry)."""
        source, lengths, so_far, following = batch
        logits, auxiliary = parts(model(source, lengths, so_far))
        per_word = partial(
            cross_entropy,
            targets=following,
            smoothing=self._smoothing if model.training else 0.0,
            ignore_index=PADDING,
            reduction="none",
        )
        counted = following != PADDING
        words = counted.sum(1).clamp(min=1)
        losses = per_word(logits)
        total = (losses.sum(1) / words).sum()
        with torch.no_grad():
            right = ((logits.argmax(-1) == following) & counted).sum()
            sums = torch.stack([losses.sum().float(), right.float(), counted.sum().float()])
        total = with_auxiliary(
            total, auxiliary, lambda more: (per_word(more).sum(1) / words).sum(), len(source)
        )
        return total, sums, carry
