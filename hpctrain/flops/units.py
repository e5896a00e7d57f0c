"""What one sample of each network is, and the loss of its training step. Imports torch when a loss is made.

Takes a model's name and settings; returns the unit that costs are given in and how many there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hpctrain.flops.conventions import ATTENTION_AND_GATES, ATTENTION_SCORES

LANGUAGE_MODELS = ("rnn", "birnn", "gru", "lstm")


@dataclass(frozen=True)
class Unit:
    """What headline figures are for, and layers that the published figures leave out (regular expressions).

    `without` are left out of the work, `params_without` of the parameters; `left_out` says so in words.
    """

    name: str
    without: str | None = None
    params_without: str | None = None
    left_out: str | None = None
    batch: int = 1  # of the count


UNITS = {
    **dict.fromkeys(LANGUAGE_MODELS, Unit("word")),
    "deep_speech2": Unit(
        "step of the recurrent layers (20 ms)", r"^lookahead", r"^lookahead", "the look-ahead convolution"
    ),
    "gnmt": Unit(
        "pair of a source and a target word",
        ATTENTION_SCORES,
        None,
        "attention's scores and sums, which grow with the length",
    ),
    # 16 sentences of 32 words fill each of 2,048 experts exactly once.
    "gnmt_moe": Unit(
        "pair of a source and a target word",
        ATTENTION_AND_GATES,
        r"(^|\.)(attention|primary)(\.|$)",
        "attention and the experts' gates; of the parameters, attention and the choice of groups",
        16,
    ),
}


def unit(name: str) -> Unit:
    """Returns the unit of the network's headline figures."""
    return UNITS.get(name, Unit("sample" if name == "custom" else "image"))


def units_in(name: str, settings: Any, batch: int) -> int:
    """Units in a batch of sequences of the settings' example length."""
    if name not in UNITS:
        return batch
    length: int = settings.example_length
    if name == "deep_speech2":
        for (_, kernel), (_, stride) in zip(settings.conv_kernels, settings.conv_strides, strict=True):
            length = (length + 2 * (kernel // 2) - kernel) // stride + 1
    return batch * length


def loss_of(name: str, settings: Any) -> Callable[[Any], Any]:
    """The training loss, summed over the batch, of the model's result."""
    import torch
    from torch.nn import functional as F

    from hpctrain.models.outputs import AUXILIARY_WEIGHT, WithAuxiliary

    def entropy(logits: torch.Tensor) -> torch.Tensor:
        rows = logits.flatten(0, -2)
        return F.cross_entropy(rows, torch.zeros(len(rows), dtype=torch.int64, device=rows.device))

    def loss(out: Any) -> torch.Tensor:
        if name == "deep_speech2":
            steps, batch, _ = out[0].shape
            labels = max(1, steps // 4)  # about 12 characters a second
            targets = torch.zeros(batch, labels, dtype=torch.int64, device=out[0].device)
            return F.ctc_loss(out[0], targets, (steps,) * batch, (labels,) * batch)
        logits, extra = (out.logits, out.auxiliary) if isinstance(out, WithAuxiliary) else (out, ())
        total = entropy(logits[0] if isinstance(logits, tuple) else logits)
        for more in extra:
            total = total + (AUXILIARY_WEIGHT * entropy(more) if more.dim() else more)
        return total

    return loss
