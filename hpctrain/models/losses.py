"""The losses, each defined once: tasks train with them, and FLOP counts of a training step include them.

Takes what networks return; returns nats. A count has no data, so `example_...` make up targets, whose values do not
change the count. B samples, K classes (or words, or characters), T' steps, L characters of a text. No side effects.
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
IGNORED = -100  # torch's default; no target has this number


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
    """Returns the negative log-likelihood of each text, (B,), or a scalar with `reduction` "mean" or "sum".

    `log_probabilities` (T', B, K), `texts` (B, L); `steps` and `counts`, (B,) or B numbers, are the valid steps and
    characters of each sample. With `zero_infinity`, a text that does not fit into its steps counts 0.
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

    `loss` is the function of logits that made `total`. `samples`: the number of samples that `total` sums over; None
    if it is their mean.
    """
    for term in auxiliary:
        if term.dim():
            total = total + AUXILIARY_WEIGHT * loss(term)
        else:
            total = total + (term if samples is None else samples * term)
    return total


def example_cross_entropy(output: Any) -> Tensor:
    """Returns the mean cross-entropy, a scalar, of logits (..., K), alone or first in a tuple, plus auxiliary terms."""
    logits, auxiliary = output if isinstance(output, WithAuxiliary) else (output, ())
    logits = logits[0] if isinstance(logits, tuple) else logits
    targets = torch.zeros(logits.shape[:-1], dtype=torch.int64, device=logits.device)

    def loss(logits: Tensor) -> Tensor:
        return cross_entropy(logits, targets, reduction="mean")

    return with_auxiliary(loss(logits), auxiliary, loss)


def example_ctc(output: tuple[Tensor, Tensor]) -> Tensor:
    """Returns the mean CTC loss, a scalar, of (log-probabilities (T', B, K), lengths (B,)); all lengths count as T'."""
    log_probabilities, _ = output
    steps, batch, _ = log_probabilities.shape
    labels = max(1, steps // 4)  # about 12 characters per second
    texts = torch.zeros(batch, labels, dtype=torch.int64, device=log_probabilities.device)
    lengths = (steps,) * batch, (labels,) * batch
    return ctc(log_probabilities, texts, *lengths, reduction="mean", zero_infinity=False)
