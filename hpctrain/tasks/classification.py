"""Image classification: cross-entropy over class labels; accuracy as the metric."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hpctrain.config.settings import TaskConfig
from hpctrain.models.outputs import AUXILIARY_WEIGHT


class Classification:
    """A batch is (images (B, C, H, W), labels (B,) int64); sums are (loss, right answers, samples)."""

    width = 3
    targets = 1

    def __init__(self, config: TaskConfig, dataset: Any = None) -> None:
        del dataset
        self._smoothing = config.label_smoothing

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], carry: None) -> tuple[Tensor, Tensor, None]:
        """Returns (summed cross-entropy in nats, a scalar; sums (3,); the carry).

        The loss is smoothed in training only; those of auxiliary heads are added.
        """
        images, labels = batch
        output = model(images)
        logits, auxiliary = (output, ()) if isinstance(output, Tensor) else output
        smoothing = self._smoothing if model.training else 0.0
        total = _cross_entropy(logits, labels, smoothing)
        with torch.no_grad():
            right = (logits.argmax(1) == labels).sum()
            sums = torch.stack([total.detach().float(), right.float(), right.new_tensor(len(labels)).float()])
        for extra in auxiliary:
            total = total + AUXILIARY_WEIGHT * _cross_entropy(extra, labels, smoothing)
        return total, sums, carry

    def summarise(self, sums: list[float]) -> dict[str, float]:
        """Returns the mean loss and the share of right answers."""
        loss, right, samples = sums
        return {"loss": loss / samples, "accuracy": right / samples}


def _cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    return functional.cross_entropy(logits.float(), labels, reduction="sum", label_smoothing=smoothing)
