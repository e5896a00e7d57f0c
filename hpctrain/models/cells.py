"""Recurrent steps over projected inputs, for layers that have no fused kernel in torch, and an LSTM.

T steps, B samples, H hidden units, G gates (RNN 1, GRU 3, LSTM 4). Gate order and formulas are those of
torch.nn.RNN, GRU and LSTM. No side effects.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

GATES = {"rnn": 1, "gru": 3, "lstm": 4}


def step(
    cell: str, x: Tensor, u: Tensor, state: Sequence[Tensor], activation: Callable[[Tensor], Tensor]
) -> tuple[Tensor, ...]:
    """Returns the state after one time step, from `x` = W x_t and `u` = U h_(t-1), both (B, G·H).

    The state is (h,) for RNN and GRU, (h, c) for LSTM, each (B, H).
    """
    if cell == "rnn":
        return (activation(x + u),)
    if cell == "gru":
        x_gates, x_new = x.tensor_split([2 * state[0].shape[-1]], -1)
        u_gates, u_new = u.tensor_split([2 * state[0].shape[-1]], -1)
        reset, update = torch.sigmoid(x_gates + u_gates).chunk(2, -1)
        new = activation(x_new + reset * u_new)
        return (new + update * (state[0] - new),)
    into, forget, new, out = (x + u).chunk(4, -1)
    memory = torch.sigmoid(forget) * state[1] + torch.sigmoid(into) * activation(new)
    return torch.sigmoid(out) * activation(memory), memory


def unroll(
    cell: str,
    projected: Tensor,
    recurrent: Callable[[Tensor], Tensor],
    state: tuple[Tensor, ...],
    *,
    activation: Callable[[Tensor], Tensor] = torch.tanh,
    mask: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Runs all steps of `projected` (T, B, G·H); returns the outputs (T, B, H) and the last state.

    `recurrent` maps h (B, H) to U h (B, G·H). The state is set to zero wherever `mask` (T, B) is false, so that a
    `reverse` pass over padded samples starts fresh at the end of each sample.
    """
    outputs: list[Tensor] = []
    steps = projected.unbind(0)
    for t in reversed(range(len(steps))) if reverse else range(len(steps)):
        state = step(cell, steps[t], recurrent(state[0]), state, activation)
        if mask is not None:
            state = tuple(part * mask[t, :, None] for part in state)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if reverse else outputs), state


class LSTM(nn.LSTM):
    """torch's LSTM that also runs under autocast on a CPU and does not warn about projections."""

    def forward(self, x: Any, state: Any = None) -> Any:
        """Maps x (B, T, I) and a state of (L, B, H) tensors to outputs (B, T, H) and the last state, like nn.LSTM."""
        device = x.device.type
        if device == "cpu" and torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))  # oneDNN's kernel does not mix this with float32
        if not self.proj_size:
            return super().forward(x, state)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
            return super().forward(x, state)
