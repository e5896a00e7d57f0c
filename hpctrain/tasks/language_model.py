"""Language models: predict the next token of a stream, or the hidden ones of a sequence.

B sequences, T tokens, N tokens in the vocabulary. A batch is (tokens (B, T), the tokens after them (B, T)),
int64. Sums are (loss in nats, predicted tokens, their characters). Perplexity is e^loss; bits per character
are given where each token's characters are known (not for words: nobody knows an unknown word's length).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hpctrain.config.settings import TaskConfig
from hpctrain.models.losses import cross_entropy
from hpctrain.tasks import Batch, Carry, Task

UNKNOWN = 0  # the vocabulary's number for what is not in it (data/text/vocabulary.py); also hides a token


class LanguageModelling(Task):
    """Next token (Mikolov et al. 2010), by truncated back-propagation: the state goes on, its gradient ends."""

    width = 3
    targets = 1

    def __init__(self, config: TaskConfig, dataset: Any) -> None:
        self._config = config
        lengths = dataset.vocabulary.lengths()
        self._lengths = None if lengths is None else torch.from_numpy(lengths)

    def loss(self, model: nn.Module, batch: Batch, carry: Carry) -> tuple[Tensor, Tensor, Carry]:
        """Returns (summed loss, a scalar; sums (3,); the state without its gradient). The batch is ((B, T), (B, T))."""
        tokens, targets = batch
        logits, state = model(tokens, carry)
        total, sums = self._loss(model, logits.flatten(0, 1), targets.flatten(), tokens.shape[1])
        return total, sums, None if state is None else tuple(part.detach() for part in state)

    def _loss(self, model: nn.Module, logits: Tensor, targets: Tensor, per: int) -> tuple[Tensor, Tensor]:
        """Of logits (n, N) and targets (n,): the summed loss, over `per` where a sequence's is a mean."""
        smoothing = self._config.label_smoothing if model.training else 0.0
        total = cross_entropy(logits, targets, smoothing=smoothing)
        count = total.new_tensor(targets.numel())
        characters = total.new_zeros(())
        if self._lengths is not None:
            self._lengths = self._lengths.to(targets.device)
            characters = self._lengths[targets].sum()
        sums = torch.stack([total.detach(), count, characters])
        return total / (per if self._config.time_reduction == "mean" else 1), sums


class MaskedLanguageModelling(LanguageModelling):
    """Hidden tokens from those on both sides: what a bidirectional network can learn (Devlin et al. 2018).

    In training each token is hidden with probability `mask_fraction`; in validation every k-th of a sequence
    is, k the nearest whole number to its inverse, so that the score does not depend on chance or ranks.
    """

    def loss(self, model: nn.Module, batch: Batch, carry: Carry) -> tuple[Tensor, Tensor, Carry]:
        """Returns (summed loss over hidden tokens, a scalar; sums (3,); None). The batch is ((B, T), (B, T))."""
        del carry
        tokens, _ = batch
        hidden = self._hidden(tokens, model.training)
        logits, _ = model(tokens.masked_fill(hidden, UNKNOWN))
        per = max(1, round(self._config.mask_fraction * tokens.shape[1]))
        total, sums = self._loss(model, logits[hidden], tokens[hidden], per)
        return total, sums, None

    def _hidden(self, tokens: Tensor, training: bool) -> Tensor:
        if training:
            return torch.rand(tokens.shape, device=tokens.device) < self._config.mask_fraction
        every = max(1, round(1 / self._config.mask_fraction))
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return (places % every == every // 2).expand(tokens.shape)
