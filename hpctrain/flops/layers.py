"""Closed forms for the calls of torch that are whole layers: normalisation, pooling, recurrence, loss.

Each takes a `Call` and returns its `Work`, with the helpers of calls.py. Pure functions of shapes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from hpctrain.flops import rules
from hpctrain.flops.calls import Call, each, moved, tensors, work
from hpctrain.flops.rules import Cost, Grads, Work

# --- normalisation ----------------------------------------------------------------------------------------


def batch_norm(call: Call) -> Work:
    """Returns the work of batch normalisation."""
    x, tracked, w, b = (
        call.get(i, n) for i, n in ((0, "input"), (1, "running_mean"), (3, "weight"), (4, "bias"))
    )
    training, channels = call.get(5, "training", False), call.args[0].shape[1]
    return _batch_norm(call, x.numel(), channels, training or tracked is None, tracked is not None, w, b)


def instance_norm(call: Call) -> Work:
    """Returns the work of batch normalisation per sample, with B times as many running averages.

    Weight and bias are repeated for each sample, so their gradients are summed over the samples in the end.
    """
    x, tracked, w, b = (
        call.get(i, n) for i, n in ((0, "input"), (1, "running_mean"), (3, "weight"), (4, "bias"))
    )
    training, channels = call.get(5, "use_input_stats", True), x.shape[0] * x.shape[1]
    done = _batch_norm(call, x.numel(), channels, training, tracked is not None, w, b)
    repeated = sum(channels for t in (w, b) if t is not None and t.requires_grad) if len(x) > 1 else 0
    return replace(done, weight_grad=done.weight_grad + Cost(other=repeated))


def _batch_norm(
    call: Call,
    elements: int,
    channels: int,
    training: bool,
    tracked: bool,
    w: Tensor | None,
    b: Tensor | None,
) -> Work:
    into_y, into_w, into_x = rules.batch_norm(
        elements,
        channels,
        training=training,
        affine=w is not None,
        tracked=tracked,
        weight_grad=_any_grad(w, b),
    )
    return work(call, "normalisation", into_y, [(call.args[0], into_x), (w if w is not None else b, into_w)])


def layer_norm(call: Call) -> Work:
    """Returns the work of layer normalisation."""
    x, shape, w, b = (call.get(i, n) for i, n in enumerate(("input", "normalized_shape", "weight", "bias")))
    rows = x.numel() // math.prod(shape)
    into_y, into_w, into_x = rules.layer_norm(
        x.numel(), rows, w.numel() if w is not None else 0, weight_grad=_any_grad(w, b)
    )
    return work(call, "normalisation", into_y, [(x, into_x), (w if w is not None else b, into_w)])


def group_norm(call: Call) -> Work:
    """Returns the work of group normalisation."""
    x, groups, w, b = (call.get(i, n) for i, n in enumerate(("input", "num_groups", "weight", "bias")))
    into_y, into_w, into_x = rules.layer_norm(
        x.numel(), x.shape[0] * groups, w.numel() if w is not None else 0, weight_grad=_any_grad(w, b)
    )
    return work(call, "normalisation", into_y, [(x, into_x), (w if w is not None else b, into_w)])


def local_response_norm(call: Call) -> Work:
    """Returns the work of x / (k + α·mean x²)^β over `size` neighbouring channels (Krizhevsky et al. 2012, 3.3).

    Per element: square 1, Σ `size`, ÷ 1, ·α 1, +k 1, power 1, ÷ 1. Backward: quotient 1 + 4, power 3, ·α 1,
    means `size`, square 2.
    """
    x, size = call.args[0], call.get(1, "size")
    n = x.numel()
    return work(
        call,
        "normalisation",
        moved(call, other=n * (size + 6)),
        [(x, Cost(other=n * (size + 11), read=2 * n, written=n))],
    )


def _any_grad(*parameters: Tensor | None) -> bool:
    return any(p is not None and p.requires_grad for p in parameters)


# --- pooling ----------------------------------------------------------------------------------------------


def max_pool(call: Call, dims: int) -> Work:
    """Returns the work of maximum pooling over `dims` dimensions."""
    return _pool(call, _window(call, dims) * call.result.numel(), maximum=True)


def mean_pool(call: Call, dims: int) -> Work:
    """Returns the work of average pooling over `dims` dimensions."""
    return _pool(call, _window(call, dims) * call.result.numel(), maximum=False)


def adaptive_mean_pool(call: Call, dims: int) -> Work:
    """Returns the work of average pooling to a fixed size."""
    return _adaptive_pool(call, dims, maximum=False)


def adaptive_max_pool(call: Call, dims: int) -> Work:
    """Returns the work of maximum pooling to a fixed size."""
    return _adaptive_pool(call, dims, maximum=True)


def _adaptive_pool(call: Call, dims: int, *, maximum: bool) -> Work:
    x, y = call.args[0], call.result
    windows = math.prod(map(rules.adaptive_windows, x.shape[-dims:], y.shape[-dims:]))
    return _pool(call, math.prod(x.shape[:-dims]) * windows, maximum=maximum)


def _window(call: Call, dims: int) -> int:
    return math.prod(each(call.get(1, "kernel_size"), dims))


def _pool(call: Call, window_sum: int, *, maximum: bool) -> Work:
    x = call.args[0]
    forward, backward = rules.pooling(x.numel(), call.result.numel(), window_sum, maximum=maximum)
    return work(call, "pooling", forward, [(x, backward)])


# --- recurrence -------------------------------------------------------------------------------------------


def recurrent(call: Call, cell: str) -> Work:
    """Returns the work of torch.lstm, gru, rnn_tanh or rnn_relu, padded (x, h0, ...) or packed (x, sizes, ...)."""
    packed = not isinstance(call.args[3], bool)
    if packed:
        x, sizes, state, weights, bias, layers, dropout, training, both = call.args
        batch_sizes = sizes.tolist()
    else:
        x, state, weights, bias, layers, dropout, training, both, batch_first = call.args
        time, batch = x.shape[:2][:: -1 if batch_first else 1] if x.dim() == 3 else (x.shape[0], 1)
        batch_sizes = [batch] * time
    states = tuple(tensors(state))
    h0, c0 = states[0], states[-1] if cell == "lstm" else None
    total = Work("activation")
    directions, width, x_grad = 1 + both, x.shape[-1], x.requires_grad
    per_direction = len(weights) // (layers * directions)
    for layer in range(layers):
        group = weights[layer * directions * per_direction : (layer + 1) * directions * per_direction]
        hidden = group[1].shape[0] // rules.CELLS[cell].gates
        projected = h0.shape[-1] if h0.shape[-1] != hidden or per_direction in (3, 5) else 0
        for direction in range(directions):
            own = group[direction * per_direction : (direction + 1) * per_direction]
            order = batch_sizes[::-1] if direction else batch_sizes
            grads = _grads(own, bias, projected > 0, x_grad, h0, c0)
            total = _sum(total, rules.recurrent(cell, order, width, hidden, projected, bias, grads))
        x_grad = x_grad or h0.requires_grad or any(w.requires_grad for w in group)
        width = (projected or hidden) * directions
        if training and dropout and layer < layers - 1:
            n = sum(batch_sizes) * width
            total = _sum(total, Work("activation", Cost(other=2 * n), Cost(), Cost(other=n if x_grad else 0)))
    return total


def recurrent_cell(call: Call, cell: str) -> Work:
    """Returns the work of torch.lstm_cell and the like: one step of one layer."""
    x, state, *weights = call.args
    states = tuple(tensors(state))
    bias = len(weights) > 2 and weights[2] is not None
    grads = _grads(weights, bias, False, x.requires_grad, states[0], states[-1] if cell == "lstm" else None)
    batch = math.prod(x.shape[:-1])
    return rules.recurrent(cell, [batch], x.shape[-1], states[0].shape[-1], 0, bias, grads)


def _grads(
    weights: Sequence[Tensor], bias: bool, projected: bool, x_grad: bool, h0: Tensor, c0: Tensor | None
) -> Grads:
    flags = [w is not None and w.requires_grad for w in weights]
    return Grads(
        input=x_grad,
        state=h0.requires_grad,
        memory=c0 is not None and c0.requires_grad,
        input_weight=flags[0],
        state_weight=flags[1],
        input_bias=bias and flags[2],
        state_bias=bias and flags[3],
        projection=projected and flags[-1],
    )


def _sum(a: Work, b: Work) -> Work:
    return Work(a.kind, a.forward + b.forward, a.weight_grad + b.weight_grad, a.input_grad + b.input_grad)


# --- loss -------------------------------------------------------------------------------------------------


def cross_entropy(call: Call) -> Work:
    """Returns the work of log-softmax and the chosen entry of each row; smoothing adds the sum of each row."""
    x, smoothing = call.args[0], call.get(7, "label_smoothing", 0.0)
    classes = x.shape[1] if x.dim() > 1 else x.shape[0]
    rows = x.numel() // classes
    whole = rules.cross_entropy(rows, classes)
    into_x = whole.input_grad
    forward = whole.forward
    if smoothing:
        forward += Cost(other=x.numel() + 2 * rows + 3)
        into_x += Cost(other=rows + 2)
    return work(call, "loss", forward, [(x, into_x)])


def nll_loss(call: Call) -> Work:
    """Returns the work of the negative log-likelihood: one operation per row."""
    x = call.args[0]
    rows = x.numel() // (x.shape[1] if x.dim() > 1 else x.shape[0])
    return work(call, "loss", moved(call, other=rows), [(x, Cost(other=rows, read=rows, written=x.numel()))])


def ctc_loss(call: Call) -> Work:
    """Returns the work of the CTC loss. Each utterance has its own length, or the longest if lengths hold no data."""
    x, targets = call.args[:2]
    frames, classes = x.shape[0], x.shape[-1]
    batch = x.shape[1] if x.dim() == 3 else 1
    lengths = _lengths(call.get(2, "input_lengths"), batch, frames)
    labels = _lengths(call.get(3, "target_lengths"), batch, targets.shape[-1] if targets.dim() == 2 else 0)
    forward, backward = Cost(), Cost()
    for time, length in zip(lengths, labels, strict=True):
        one = rules.ctc(time, length, classes)
        forward, backward = forward + one.forward, backward + one.input_grad
    if call.get(6, "zero_infinity", False):  # each loss is replaced if it is infinite
        forward, backward = forward + Cost(other=batch), backward + Cost(other=batch)
    reduction = call.get(5, "reduction", "mean")
    if reduction == "mean":  # each loss divided by its clamped number of labels, then their mean
        forward, backward = forward + Cost(other=3 * batch + 1), backward + Cost(other=2 * batch)
    elif reduction == "sum":
        forward += Cost(other=batch)
    return work(call, "loss", forward, [(x, backward)])


def _lengths(value: Any, batch: int, longest: int) -> list[int]:
    if isinstance(value, Tensor):
        return [longest] * batch if value.is_meta else [int(n) for n in value.flatten().tolist()]
    return [int(n) for n in value] if value is not None else [longest] * batch
