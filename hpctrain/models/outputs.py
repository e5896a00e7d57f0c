"""The result of networks that return more than logits in training. No side effects."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class WithAuxiliary(NamedTuple):
    """Logits, and further terms of the training loss.

    `auxiliary` holds further logits (GoogLeNet's heads, of the shape of `logits`) or scalar losses (the load balance
    of a mixture of experts).
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...]


def parts(output: Tensor | tuple[Tensor, tuple[Tensor, ...]]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Returns a network's logits (..., K) and the further terms of its training loss; plain logits have none."""
    return (output, ()) if isinstance(output, Tensor) else output
