"""Recurrent steps over projected inputs, for layers that have no fused kernel in torch, and an LSTM.

T steps, B samples, H hidden units, G gates (RNN 1, GRU 3, LSTM 4). Gate order and formulas are those of
torch.nn.RNN, GRU and LSTM. No side effects.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GATES = {"rnn": 1, "gru": 3, "lstm": 4}

State = tuple[Tensor, ...]
Body = Callable[..., tuple[State, State]]
# Whether this call is part of an export. torch before 2.7 cannot say; then lengths stay fixed.
is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)


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

    def body(state: State, x: Tensor, *valid: Tensor) -> tuple[State, State]:
        state = step(cell, x, recurrent(state[0]), state, activation)
        for row in valid:
            state = tuple(part * row[:, None] for part in state)
        return state, state[:1]

    state, (outputs,) = over_time(
        body, state, (projected,) if mask is None else (projected, mask), reverse=reverse
    )
    return outputs, state


def over_time(body: Body, state: State, steps: State, *, reverse: bool = False) -> tuple[State, State]:
    """Runs `body` for each t along the first dimension of `steps`, tensors (T, ...), the last first if `reverse`.

    `body` maps the state and one step of each to the next state and a tuple of outputs. Returns the last state and the
    outputs, each (T, ...). In an export T stays free: then this is one operator, not T copies of `body`.
    """
    if is_exporting():
        from torch._higher_order_ops.scan import scan

        def apart(
            state: State, step: State
        ) -> tuple[State, State]:  # an output must not share a state's memory
            state, outputs = body(state, *step)
            return state, tuple(output.clone() for output in outputs)

        return scan(apart, state, steps, dim=0, reverse=reverse)
    made: list[State] = []
    by_time = list(zip(*(part.unbind(0) for part in steps), strict=True))
    for step in reversed(by_time) if reverse else by_time:
        state, outputs = body(state, *step)
        made.append(outputs)
    return state, tuple(
        torch.stack(parts) for parts in zip(*(reversed(made) if reverse else made), strict=True)
    )


class RNN(nn.RNN):
    """torch's RNN, which an export runs through `over_time`: torch's own exporter fixes the number of steps."""

    def forward(self, x: Any, state: Any = None) -> Any:
        """Maps x (B, T, I) and a state (L·D, B, H) to outputs (B, T, D·H) and the last state, like nn.RNN."""
        if not is_exporting():
            return super().forward(x, state)
        x, last, directions = x.transpose(0, 1), [], 1 + self.bidirectional
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                number = directions * layer + direction
                w_in, w, b_in, b = self.all_weights[number]
                output, (h,) = unroll(
                    "rnn",
                    F.linear(x, w_in, b_in),
                    partial(F.linear, weight=w, bias=b),
                    (state[number],),
                    activation=getattr(torch, self.nonlinearity),
                    reverse=bool(direction),
                )
                outputs.append(output)
                last.append(h)
            x = torch.cat(outputs, -1)
        return x.transpose(0, 1), torch.stack(last)


class LSTM(nn.LSTM):
    """torch's LSTM that also runs under autocast on a CPU and does not warn about projections.

    An export runs a single layer through `over_time`: torch's exporter knows no projections, and of layers that follow
    one another it fixes the sizes.
    """

    def forward(self, x: Any, state: Any = None) -> Any:
        """Maps x (B, T, I) and a state of (L, B, H) tensors to outputs (B, T, H) and the last state, like nn.LSTM."""
        device = x.device.type
        if device == "cpu" and torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)  # oneDNN's kernel does not mix this with float32
            x, state = x.to(dtype), None if state is None else tuple(part.to(dtype) for part in state)
        if is_exporting() and self.num_layers == 1 and not self.bidirectional:
            cell = self.cell()

            def body(state: State, word: Tensor) -> tuple[State, State]:
                state = cell(word, state)
                return state, (state[0][0],)

            state, (outputs,) = over_time(body, state or self.start(x), (x.transpose(0, 1),))
            return outputs.transpose(0, 1), state
        if not self.proj_size:
            return super().forward(x, state)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
            return super().forward(x, state)

    def start(self, x: Tensor) -> State:
        """Returns the state before the first word of x (B, T, I), zero: h (1, B, P) and c (1, B, H), for `cell`.

        P is the width of an output: H, or that of the projection.
        """
        return x.new_zeros(1, len(x), self.proj_size or self.hidden_size), x.new_zeros(
            1, len(x), self.hidden_size
        )

    def cell(self) -> Callable[[Tensor, State], State]:
        """Returns the function from a word x (B, I) and a state to the next state: h (1, B, P), its output, and c.

        In an export it is made of plain operators, which `over_time` needs; otherwise it is torch's own.
        """
        if not is_exporting():
            return lambda x, state: self(x[:, None], state)[1]
        weights = dict(self.named_parameters())

        def once(x: Tensor, state: State) -> State:
            u = F.linear(state[0], weights["weight_hh_l0"], weights.get("bias_hh_l0"))
            x = F.linear(x, weights["weight_ih_l0"], weights.get("bias_ih_l0"))
            h, c = step("lstm", x, u, state, torch.tanh)
            return (F.linear(h, weights["weight_hr_l0"]) if self.proj_size else h), c

        return once
