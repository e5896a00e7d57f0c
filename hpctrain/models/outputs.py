"""The result of networks that return more than logits in training. No side effects."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

# Weight of an auxiliary head's loss beside the main one (Szegedy et al. 2014, arXiv:1409.4842, section 5).
AUXILIARY_WEIGHT = 0.3


class WithAuxiliary(NamedTuple):
    """Logits, and further terms of the training loss.

    `auxiliary` holds further logits (GoogLeNet's heads, of the shape of `logits`) or scalar losses (the load balance
    of a mixture of experts).
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...]
