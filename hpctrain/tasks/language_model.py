"""Language models: predict the next token of a stream, or the hidden ones of a sequence.

B sequences, T tokens, N tokens in the vocabulary. A batch is (tokens (B, T), the tokens after them (B, T)),
int64. Sums are (loss in nats, predicted tokens, their characters). Perplexity is e^loss; bits per character
are given where each token's characters are known (not for words: nobody knows an unknown word's length).
"""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any

import torch
from torch import Tensor, nn

from hpctrain.config.settings import TaskConfig
from hpctrain.errors import UserError
from hpctrain.models.losses import cross_entropy
from hpctrain.models.outputs import parts
from hpctrain.tasks import Batch, Carry, Task

_STATE = re.compile(r"\w*(carry|states?|hidden|memory)|hx|h_?0?|hc|cache", re.IGNORECASE)
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
        logits, state = predicted(model, tokens, carry)
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
        logits, _ = predicted(model, tokens.masked_fill(hidden, UNKNOWN))
        per = max(1, round(self._config.mask_fraction * tokens.shape[1]))
        total, sums = self._loss(model, logits[hidden], tokens[hidden], per)
        return total, sums, None

    def _hidden(self, tokens: Tensor, training: bool) -> Tensor:
        if training:
            return torch.rand(tokens.shape, device=tokens.device) < self._config.mask_fraction
        every = max(1, round(1 / self._config.mask_fraction))
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return (places % every == every // 2).expand(tokens.shape)


def predicted(model: nn.Module, tokens: Tensor, carry: Carry = None) -> tuple[Tensor, Carry]:
    """Returns logits (B, T, N) for tokens (B, T), and the state after them; None if the network keeps none.

    A network that is not hpctrain's may take the tokens alone, and may return what models/outputs.py says. If what it
    takes after them has the name of a state (`state`, `hidden`, `carry`), it returns (logits, state), and gets the
    state again: a tensor, or a tuple of tensors, with the sequences as dimension 1. Raises UserError for logits of
    another shape.
    """
    kind: Any = type(model)
    output = model(tokens, carry) if _takes_state(kind) else model(tokens)
    state = output[1] if isinstance(output, tuple) and len(output) == 2 else None
    if isinstance(state, Tensor):
        state = (state,)
    keeps = isinstance(state, tuple) and all(isinstance(part, Tensor) for part in state)
    logits, _ = parts(output)
    if logits.dim() != 3 or logits.shape[:2] != tokens.shape:
        shape = "x".join(map(str, logits.shape))
        raise UserError(
            "model.target", shape, f"its logits must be ({tokens.shape[0]}, {tokens.shape[1]}, tokens known)"
        )
    return logits, state if keeps and _takes_state(kind) else None


@functools.cache
def _takes_state(kind: Any) -> bool:
    """Returns whether the forward of a class of modules takes a state after its tokens, by the name of that."""
    names = list(inspect.signature(kind.forward).parameters)
    return len(names) > 2 and _STATE.fullmatch(names[2]) is not None
