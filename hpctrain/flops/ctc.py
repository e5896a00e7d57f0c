"""The CTC loss on the meta device, for which torch has no kernel: results of the right shapes, without data.

Takes operators as torch's dispatcher sees them. No side effects. B utterances, T frames, U labels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


def result(operator: Any, args: Sequence[Any]) -> Any:
    """Returns losses (B,) and log α (B, T, 2 U + 1), or the gradient (T, B, K); None for all other operators."""
    if operator is aten._ctc_loss:
        log_probs, targets, _, target_lengths = args[:4]
        frames, batch, _ = log_probs.shape
        longest = targets.shape[1] if targets.dim() == 2 else max(int(n) for n in target_lengths)
        return log_probs.new_empty(batch), log_probs.new_empty(batch, frames, 2 * longest + 1)
    if operator is aten._ctc_loss_backward:
        return torch.empty_like(args[1])
    return None


class CtcOnMeta(TorchDispatchMode):
    """A dispatch mode that answers CTC's operators itself and lets all others run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = result(func.overloadpacket, args)
        return func(*args, **(kwargs or {})) if out is None else out
