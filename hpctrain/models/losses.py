"""The losses, each written once: tasks train with them, and a count of a training step ends in them.

Takes what networks return; returns nats. A count has no data, so `example_...` make up their targets, whose values cost
nothing. B samples, K classes (or words, or characters), T' steps, L characters of a text. No side effects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hpctrain.models.outputs import WithAuxiliary

# Weight of an auxiliary head's loss beside the main one (Szegedy et al. 2014, arXiv:1409.4842, section 5).
AUXILIARY_WEIGHT = 0.3
IGNORED = -100  # torch's own: no target has this number


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    smoothing: float = 0.0,
    ignore_index: int = IGNORED,
    reduction: str = "sum",
) -> Tensor:
    """Returns the cross-entropy of logits (..., K) and targets (...): a scalar, or (...) with reduction "none"."""
    losses = functional.cross_entropy(
        logits.float().flatten(0, -2),
        targets.flatten(),
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=smoothing,
    )
    return losses.view_as(targets) if reduction == "none" else losses


def ctc(
    log_probabilities: Tensor,
    texts: Tensor,
    steps: Any,
    counts: Any,
    *,
    reduction: str = "none",
    zero_infinity: bool = True,
) -> Tensor:
    """Returns minus the log-likelihood of each text, (B,), or with another reduction torch's scalar of them.

    `log_probabilities` (T', B, K), `texts` (B, L); `steps` and `counts`, (B,) or B numbers, say how many of T' and L
    are valid. With `zero_infinity` a text that does not fit into its steps counts 0.
    """
    return functional.ctc_loss(
        log_probabilities.float(), texts, steps, counts, reduction=reduction, zero_infinity=zero_infinity
    )


def with_auxiliary(
    total: Tensor,
    auxiliary: Sequence[Tensor],
    loss: Callable[[Tensor], Tensor],
    samples: int | None = None,
) -> Tensor:
    """Returns `total` plus the `auxiliary` terms of a network's result (models/outputs.py), a scalar.

    `loss` makes a scalar of logits as it made `total`. `samples`: how many samples `total` is the sum over; None if it
    is their mean.
    """
    for term in auxiliary:
        if term.dim():
            total = total + AUXILIARY_WEIGHT * loss(term)
        else:
            total = total + (term if samples is None else samples * term)
    return total


def example_cross_entropy(output: Any) -> Tensor:
    """Returns the mean cross-entropy of a network's result, a scalar, whatever stands beside the logits."""
    logits, auxiliary = output if isinstance(output, WithAuxiliary) else (output, ())
    logits = logits[0] if isinstance(logits, tuple) else logits
    targets = torch.zeros(logits.shape[:-1], dtype=torch.int64, device=logits.device)

    def loss(logits: Tensor) -> Tensor:
        return cross_entropy(logits, targets, reduction="mean")

    return with_auxiliary(loss(logits), auxiliary, loss)


def example_ctc(output: tuple[Tensor, Tensor]) -> Tensor:
    """Returns the mean CTC loss of log-probabilities (T', B, K), whose lengths (B,) stand beside them, a scalar."""
    log_probabilities, _ = output
    steps, batch, _ = log_probabilities.shape
    labels = max(1, steps // 4)  # about 12 characters a second
    texts = torch.zeros(batch, labels, dtype=torch.int64, device=log_probabilities.device)
    lengths = (steps,) * batch, (labels,) * batch
    return ctc(log_probabilities, texts, *lengths, reduction="mean", zero_infinity=False)
