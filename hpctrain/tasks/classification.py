"""Image classification: cross-entropy over class labels; accuracy as the metric."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hpctrain.config.settings import TaskConfig
from hpctrain.errors import UserError
from hpctrain.models.losses import cross_entropy, with_auxiliary
from hpctrain.models.outputs import parts
from hpctrain.tasks import Batch, Carry, Task


class Classification(Task):
    """A batch is (images (B, C, H, W), labels (B,) int64); sums are (loss, right answers, samples)."""

    width = 3
    targets = 1

    def __init__(self, config: TaskConfig, dataset: Any = None) -> None:
        self._classes: int | None = getattr(dataset, "num_classes", None)
        self._smoothing = config.label_smoothing

    def loss(self, model: nn.Module, batch: Batch, carry: Carry) -> tuple[Tensor, Tensor, Carry]:
        """Returns (summed cross-entropy in nats, a scalar; sums (3,); the carry).

        The loss is smoothed in training only; those of auxiliary heads are added.
        """
        images, labels = batch
        logits, auxiliary = parts(model(images))
        for each in (logits, *(term for term in auxiliary if term.dim())):
            check_logits(each, len(labels), self._classes)
        loss = partial(cross_entropy, targets=labels, smoothing=self._smoothing if model.training else 0.0)
        total = loss(logits)
        with torch.no_grad():
            right = (logits.argmax(1) == labels).sum()
            sums = torch.stack([total.detach().float(), right.float(), right.new_tensor(len(labels)).float()])
        return with_auxiliary(total, auxiliary, loss, len(labels)), sums, carry


def check_logits(logits: Tensor, samples: int, classes: int | None) -> None:
    """Raises UserError unless `logits` are (`samples`, K) with K at least `classes`, if that is known."""
    shape = "x".join(map(str, logits.shape)) or "a single number"
    if logits.dim() != 2 or len(logits) != samples:
        raise UserError("model.target", shape, f"its logits must be ({samples} samples, classes)")
    if classes is not None and logits.shape[1] < classes:
        raise UserError(
            "model.target", shape, f"has logits for {logits.shape[1]} classes; the data have {classes}"
        )
