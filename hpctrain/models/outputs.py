"""What a network gives in training when it has more than logits. No side effects."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class WithAuxiliary(NamedTuple):
    """Logits, and what training adds to the loss.

    `auxiliary` holds further logits (GoogLeNet's heads, shaped as `logits`) or scalar losses (a mixture
    of experts' load balance).
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...]
