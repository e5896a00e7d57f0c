"""Closed-form operation counts of one call of a layer, as pure integer arithmetic.

Takes sizes (elements, never bytes) and returns `Work`: forward, gradient of the weights, gradient of the
inputs. Imports no torch; no side effects. Everywhere:

- a MAC is one multiplication and one addition into a running sum: n terms are n MACs;
- any other operation on floating-point numbers is one: add, multiply, divide, compare, select, and each value
  of an elementary function (exp, log, sqrt, tanh, sigmoid); a sum of n terms is n additions;
- integer and address arithmetic, random numbers, copies, sorting and argmax are left out, and so are the
  additions that join gradients of a tensor that is used more than once (kernels fuse them).

Letters: B samples, C channels, T time steps, H hidden units, P projected units, I input width, G gates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal[
    "layer", "attention", "activation", "normalisation", "pooling", "loss", "elementwise", "memory"
]

# Operations per element of fused functions: (forward, gradient of the input).
ACTIVATIONS: dict[str, tuple[int, int]] = {
    "relu": (1, 1),  # compare; select
    "sigmoid": (1, 3),  # σ; g·y·(1−y)
    "tanh": (1, 3),  # tanh; g·(1−y·y)
    "hardtanh": (2, 2),  # two comparisons; two selections
    "relu6": (2, 2),
    "leaky_relu": (2, 2),  # compare, multiply
    "elu": (4, 4),  # compare, exp, −1, ·α
    "softplus": (4, 4),  # ·β, exp, +1, log; exp, +1, ÷, ·g
    "gelu": (5, 9),  # x·0.5·(1+erf(x/√2)); Φ(x) again and x·φ(x)
    "silu": (2, 5),  # x·σ(x); g·σ·(1+x·(1−σ))
    "hardswish": (5, 5),  # x·clamp(x+3, 0, 6)/6
    "hardsigmoid": (4, 2),
    "softmax": (5, 4),  # max, −, exp, Σ, ÷; (g − Σ g·y)·y
    "log_softmax": (5, 4),  # max, −, exp, Σ, −; g − exp(y)·Σ g
    "softmin": (6, 5),  # the same of −x
    "threshold": (1, 1),
    "selu": (5, 5),  # as elu, ·scale
    "celu": (5, 4),  # compare, ÷α, exp, −1, ·α; compare, ÷α, exp, ·g
    "mish": (5, 11),  # x·tanh(log(1+exp)); t = tanh again 4, g·(t + x·σ·(1−t²)) 7
    "softsign": (3, 7),  # x/(1+|x|); ÷, and 4 for the divisor, sign, ·
    "tanhshrink": (2, 4),
    "softshrink": (3, 2),  # two comparisons, −; two comparisons
    "hardshrink": (2, 2),
    "log_sigmoid": (7, 5),  # min(x, 0) − log(1+exp(−|x|)); compare, 1+z, ÷, −, ·g
    "glu": (2, 5),  # per output a·σ(b); g·σ, and into b σ, 1−σ, ·, ·a
}

# The same of other elementary functions.
FUNCTIONS: dict[str, tuple[int, int]] = {
    "neg": (1, 1),
    "abs": (1, 2),
    "exp": (1, 1),
    "exp2": (1, 2),
    "expm1": (1, 2),
    "log": (1, 1),
    "log2": (1, 2),
    "log10": (1, 2),
    "log1p": (1, 2),
    "sqrt": (1, 2),
    "rsqrt": (1, 3),
    "square": (1, 3),
    "reciprocal": (1, 3),
    "sin": (1, 2),
    "cos": (1, 3),
    "tan": (1, 3),
    "atan": (1, 3),
    "sinh": (1, 2),
    "cosh": (1, 2),
    "erf": (1, 5),  # x², −, exp, ·2/√π, ·g
    "erfc": (1, 5),
    "special_ndtr": (4, 7),  # ½(1+erf(x/√2)); ½, x², −, exp, ·2/√π, ·g, ·1/√2
    **dict.fromkeys(("sign", "sgn", "floor", "ceil", "round", "trunc", "frac"), (1, 0)),
}


@dataclass(frozen=True)
class Cost:
    """The operations of one pass of one call. `macs` includes the `padding_macs`, whose input is a padding zero."""

    macs: int = 0
    bias: int = 0
    other: int = 0
    read: int = 0  # elements moved from memory, each tensor once
    written: int = 0
    padding_macs: int = 0

    def __add__(self, more: Cost) -> Cost:
        return Cost(
            self.macs + more.macs,
            self.bias + more.bias,
            self.other + more.other,
            self.read + more.read,
            self.written + more.written,
            self.padding_macs + more.padding_macs,
        )

    @property
    def arithmetic(self) -> int:
        """All operations that are not MACs."""
        return self.bias + self.other


@dataclass(frozen=True)
class Work:
    """The three passes of one call; `kind` says what the `other` operations are for."""

    kind: Kind
    forward: Cost = Cost()
    weight_grad: Cost = Cost()
    input_grad: Cost = Cost()

    @property
    def backward(self) -> Cost:
        """Both gradients together."""
        return self.weight_grad + self.input_grad


def taps(size: int, outputs: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Returns the number of pairs (output i, tap t) along one dimension that have an input.

    The index of the input is i·stride − padding + t·dilation; it exists from 0 to `size` − 1.
    """
    total = 0
    for tap in range(kernel):
        offset = tap * dilation - padding
        first = max(0, -(offset // stride))  # smallest i with i·stride + offset ≥ 0
        last = min(outputs - 1, (size - 1 - offset) // stride)
        total += max(0, last - first + 1)
    return total


def convolution(
    batch: int,
    inputs: int,
    outputs: int,
    groups: int,
    size: Sequence[int],
    out_size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    *,
    bias: bool,
    transposed: bool,
) -> tuple[Cost, Cost, Cost]:
    """Returns (forward, weights, input), each with B · (C_in/groups) · C_out · Π kernel · Π positions MACs.

    Positions are the outputs of a convolution, and the inputs of a transposed one, which is its adjoint. All three
    passes are the same sum in another order. `size` and `padding` of a transposed convolution are its own: its
    cropped outputs are the padding taps. Source: Goodfellow et al. 2016, equations 9.7-9.13.
    """
    channels = batch * (inputs // groups) * outputs
    positions, domain = (size, out_size) if transposed else (out_size, size)
    macs = channels * math.prod(kernel) * math.prod(positions)
    inside = channels * math.prod(
        taps(n, o, k, s, p, d)
        for n, o, k, s, p, d in zip(domain, positions, kernel, stride, padding, dilation, strict=True)
    )
    x, y = batch * inputs * math.prod(size), batch * outputs * math.prod(out_size)
    w = inputs // groups * outputs * math.prod(kernel)
    added, spare = (y if bias else 0), macs - inside
    parameters = w + (outputs if bias else 0)
    return (
        Cost(macs, added, 0, x + parameters, y, spare),
        Cost(macs, added, 0, x + y, parameters, spare),
        Cost(macs, 0, 0, y + w, x, spare),
    )


def matmul(batch: int, rows: int, inner: int, columns: int) -> int:
    """Returns the MACs of `batch` products (rows x inner)·(inner x columns); either gradient costs the same."""
    return batch * rows * inner * columns


def linear(rows: int, inputs: int, outputs: int, *, bias: bool) -> tuple[Cost, Cost, Cost]:
    """Returns (forward, weights, input) of y = x·Wᵀ + b over `rows` vectors in any number of dimensions."""
    macs, x, y, w = rows * inputs * outputs, rows * inputs, rows * outputs, inputs * outputs
    added, b = (y, outputs) if bias else (0, 0)
    return (
        Cost(macs, added, 0, x + w + b, y),
        Cost(macs, added, 0, x + y, w + b),
        Cost(macs, 0, 0, y + w, x),
    )


def bilinear(
    rows: int, first: int, second: int, outputs: int, *, bias: bool
) -> tuple[Cost, Cost, Cost, Cost]:
    """Returns (forward, weights, x, z) of y_o = Σ x_i·W_oij·z_j + b_o over `rows` pairs of vectors x and z.

    The longer sum comes first: x·W, then ·z; into x and z the same with y's gradient. Into W the outer product of x and
    y's gradient, which are multiplications, and then a sum over the rows.
    """
    x, z, y, w = rows * first, rows * second, rows * outputs, outputs * first * second
    whole, added, b = rows * w, y * bias, outputs * bias
    return (
        Cost(whole + y * second, added, 0, x + z + w + b, y),
        Cost(whole, added, y * first, x + z + y, w + b),
        Cost(whole + x * second, 0, 0, z + y + w, x),
        Cost(whole + y * second, 0, 0, x + y + w, z),
    )


def batch_norm(
    elements: int, channels: int, *, training: bool, affine: bool, tracked: bool, weight_grad: bool
) -> tuple[Cost, Cost, Cost]:
    """Returns (forward, weights, input) of x̂ = (x−μ)/√(σ²+ε), y = γ·x̂ + β (Ioffe & Szegedy 2015, Algorithm 1).

    Per element: μ 1, σ² 3 (−, square, Σ), x̂ 2, affine 2. Per channel: 2 divisions, +ε, 1/√; running averages 6.
    Backward, per element: Σg and Σg·x̂ 5, dx 4; per channel 3. If μ and σ are constants, dx is 1.
    """
    forward = elements * (6 if training else 2) + channels * (4 if training else 2)
    forward += 2 * elements * affine + 6 * channels * (training and tracked)
    sums = 5 * elements
    into_x = 4 * elements + 3 * channels if training else elements + channels
    if training and not weight_grad:
        into_x += sums
    parameters = 2 * channels * affine
    return (
        Cost(other=forward, read=elements + parameters, written=elements),
        Cost(other=sums, read=2 * elements, written=parameters),
        Cost(other=into_x, read=2 * elements + parameters, written=elements),
    )


def layer_norm(elements: int, rows: int, affine: int, *, weight_grad: bool) -> tuple[Cost, Cost, Cost]:
    """Returns (forward, weights, input) of layer and group normalisation, with `affine` gains γ and shifts β.

    Statistics are taken over each of the `rows`.

    Per element: μ 1, σ² 3, x̂ 2, affine 2; per row 4. Backward, per element: Σg and Σg·x̂ for γ and β 5 (2 of them
    for x̂), into x 7, 1 for γ, and 2 for x̂ if γ's gradient has not computed it; per row 2.
    """
    scaled = 2 * elements if affine else 0
    into_x = elements * (7 + bool(affine) + (0 if weight_grad else 2)) + 2 * rows
    return (
        Cost(other=6 * elements + scaled + 4 * rows, read=elements + 2 * affine, written=elements),
        Cost(other=5 * elements, read=2 * elements, written=2 * affine),
        Cost(other=into_x, read=2 * elements + affine, written=elements),
    )


def rms_norm(
    elements: int, rows: int, gains: int, *, summed: bool, repeated: bool
) -> tuple[Cost, Cost, Cost]:
    """Returns (forward, weights, input) of x/√(mean x² + ε)·γ with `gains` γ (Zhang & Sennrich 2019, equation 4).

    Per element: square, Σ, · 3, γ 1; per row ÷, +ε, 1/√. Backward, per element: γ's gradient ·, and Σ if it is `summed`
    over rows; into x γ 1, two products 2, their sum if a row has more than one element (`repeated`) 1, its share ÷ 1,
    square 3; per row 1/√ 3.
    """
    scaled = elements * bool(gains)
    return (
        Cost(other=3 * elements + 3 * rows + scaled, read=elements + gains, written=elements),
        Cost(other=elements * (1 + summed), read=2 * elements, written=gains),
        Cost(
            other=(6 + repeated) * elements + 3 * rows + scaled, read=2 * elements + gains, written=elements
        ),
    )


def norm(elements: int, rows: int, order: int) -> tuple[int, int]:
    """Returns (forward, input) operations of the norms of `rows` vectors: Σ|x|, or √Σx² if `order` is 2.

    Backward: sign or quotient x/‖x‖, and ·g.
    """
    return 2 * elements + rows * (order == 2), 2 * elements


def normalize(elements: int, rows: int, order: int) -> tuple[Cost, Cost]:
    """Returns (forward, input) of x / max(‖x‖, ε) for each of `rows` vectors.

    Backward, per element: ÷, 4 for the divisor, and the norm's; per row the selection of the maximum.
    """
    length, into_length = norm(elements, rows, order)
    return (
        Cost(other=length + rows + elements, read=elements, written=elements),
        Cost(other=5 * elements + rows + into_length, read=2 * elements, written=elements),
    )


def cosine_similarity(elements: int, rows: int) -> tuple[Cost, Cost]:
    """Returns (forward, one input) of x·y / (‖x‖·‖y‖) of `rows` pairs of vectors: both divided by their length first.

    Per element: norms 4, ÷ 2, ·, Σ; per row two roots and two maxima. Backward: ·, ÷, 4 and Σ for the divisor, norm 2.
    """
    return (
        Cost(other=8 * elements + 4 * rows, read=2 * elements, written=rows),
        Cost(other=9 * elements, read=2 * elements, written=elements),
    )


def weight_norm(elements: int, rows: int) -> tuple[Cost, Cost]:
    """Returns (forward, both gradients) of w = g·v/‖v‖ with a length g for each of `rows` (Salimans & Kingma 2016).

    Per element: norm 2, ·; per row √, ÷. Backward: v·∂w and Σ, ·g/‖v‖, norm 2; per row ÷ 1 and 4.
    """
    return (
        Cost(other=3 * elements + 2 * rows, read=elements + rows, written=elements),
        Cost(other=5 * elements + 5 * rows, read=2 * elements + rows, written=elements + rows),
    )


def pooling(elements: int, outputs: int, window_sum: int, *, maximum: bool) -> tuple[Cost, Cost]:
    """Returns (forward, input); `window_sum` is the number of elements of all windows, padding included.

    Forward: a comparison or addition for each, and for means a division per output. Backward: one operation per
    output for a maximum, one per element of each window for means.
    """
    divisions, backward = (0, outputs) if maximum else (outputs, window_sum)
    return (
        Cost(other=window_sum + divisions, read=elements, written=outputs),
        Cost(other=backward, read=outputs, written=elements),
    )


def adaptive_windows(size: int, outputs: int) -> int:
    """Returns the elements of all windows ⌊i·n/o⌋ to ⌈(i+1)·n/o⌉ of adaptive pooling along one dimension."""
    return sum(-(-(i + 1) * size // outputs) - i * size // outputs for i in range(outputs))


# Values of which one output is a weighted sum, along each dimension; the nearest one is copied.
INTERPOLATED = {"nearest": 1, "nearest-exact": 1, "linear": 2, "bilinear": 2, "trilinear": 2, "bicubic": 4}


def interpolation(elements: int, outputs: int, dims: int, mode: str) -> tuple[Cost, Cost]:
    """Returns (forward, input) of a change of size; `mode` is one of INTERPOLATED. Raises KeyError for another.

    Each value of a weighted sum costs a product and an addition, in both passes; positions and weights are address
    arithmetic. If values are copied, the backward pass adds each output's gradient to its input's.
    """
    values = INTERPOLATED[mode] ** dims
    forward, backward = (0, outputs) if values == 1 else (2 * values * outputs,) * 2
    return (
        Cost(other=forward, read=elements, written=outputs),
        Cost(other=backward, read=outputs, written=elements),
    )


@dataclass(frozen=True)
class Cell:
    """Operations per hidden unit and step, apart from the matrix products and biases.

    `first` is saved in the backward pass of the first step, if the initial c of an LSTM, or the first U·h of a GRU,
    needs no gradient.
    """

    gates: int
    forward: int
    backward: int
    first: int = 0


CELLS = {
    # Wx + Uh, then tanh (or ReLU).
    "rnn_tanh": Cell(1, 2, 3),
    "rnn_relu": Cell(1, 2, 1),
    # r, z: add, σ each; r·Uh, +, tanh; (h−n), ·z, +n. Backward: ·2, −1, tanh 3, ·2, σ 3 each.
    "gru": Cell(3, 10, 14, 1),
    # Wx + Uh 4; σ 3, tanh 2; f·c + i·g 3; o·tanh(c) 1. Backward: 2, tanh 3, 4, σ 9, tanh 3.
    "lstm": Cell(4, 13, 21, 1),
}


@dataclass(frozen=True)
class Grads:
    """Which gradients one direction of one recurrent layer needs."""

    input: bool = False
    state: bool = False
    memory: bool = False  # the LSTM's initial c
    input_weight: bool = True
    state_weight: bool = True
    input_bias: bool = True
    state_bias: bool = True
    projection: bool = True

    @property
    def any(self) -> bool:
        """Whether any gradient is needed."""
        return any(vars(self).values())


def recurrent(
    cell: str, batch_sizes: Sequence[int], inputs: int, hidden: int, projected: int, bias: bool, grads: Grads
) -> Work:
    """Returns the work of one direction of one layer; `batch_sizes` are the numbers of samples that reach each step.

    MACs per sample and step: G·H·(I + P), and H·P if h is projected (P < H). Biases: two vectors of G·H, as in
    torch and cuDNN. The gradient of the first step's initial state is left out unless it is needed.
    Sources: Hochreiter & Schmidhuber 1997; Cho et al. 2014 with torch's reset gate; Sak et al. 2014.
    """
    rule, steps = CELLS[cell], sum(batch_sizes)
    later, width = steps - batch_sizes[0], rule.gates * hidden
    state = projected or hidden
    into, through, down = width * inputs, width * state, hidden * projected
    x, y, b = steps * inputs, steps * state, width * bool(bias)
    weights = into + through + down + 2 * b
    forward = Cost(
        steps * (into + through + down),
        steps * 2 * b,
        steps * hidden * rule.forward,
        x + weights,
        y,
    )
    if not grads.any:
        return Work("activation", forward)
    trained = steps * (into * grads.input_weight + through * grads.state_weight + down * grads.projection)
    bias_grad = steps * width * (bool(bias) and grads.input_bias) + steps * width * (
        bool(bias) and grads.state_bias
    )
    steps_to_state = steps if grads.state else later
    # If only the projection is trained, nothing before it in the first step needs a gradient.
    gates = replace(grads, projection=False).any
    active = list(batch_sizes if gates else batch_sizes[1:]) or [0]
    hidden_side = grads.state or grads.state_weight or grads.state_bias
    whole = grads.memory if cell == "lstm" else hidden_side
    input_grad = Cost(
        steps * into * grads.input + steps_to_state * through + sum(active) * down,
        0,
        hidden * (sum(active) * rule.backward - (0 if whole else active[0] * rule.first)),
        y + weights - 2 * b,
        x if grads.input else 0,
    )
    return Work("activation", forward, Cost(trained, bias_grad, 0, x + y, weights), input_grad)


def attention(
    batch: int,
    queries: int,
    keys: int,
    width: int,
    value_width: int,
    *,
    scaled: int,
    masked: bool,
    dropout: bool,
    grads: tuple[bool, bool, bool],
) -> tuple[Cost, tuple[Cost, Cost, Cost, Cost]]:
    """Returns (forward, backward) of softmax(q·kᵀ·s + mask)·v for `batch` = samples x heads (Vaswani et al. 2017).

    `scaled` is 1 if the scale is applied to q, 2 if to q and k; `grads` says which of q, k, v need a gradient. Backward
    has the passes into v, through the softmax, into q and into k.
    """
    scores = batch * queries * keys
    into_scores, into_out = scores * width, scores * value_width
    soft, soft_back = ACTIVATIONS["softmax"]
    q, k, v = batch * queries * width, batch * keys * width, batch * keys * value_width
    out = batch * queries * value_width
    scaling = (q, q + k)[scaled - 1]
    forward = Cost(
        into_scores + into_out, 0, (soft + masked + 2 * dropout) * scores + scaling, q + k + v, out
    )
    to_q, to_k, to_v = grads
    through = Cost(into_out, 0, (soft_back + dropout) * scores, out + v) if to_q or to_k else Cost()
    return forward, (
        Cost(into_out * to_v, 0, 0, out + scores, v * to_v),
        through,
        Cost(into_scores * to_q, 0, q * to_q, scores + k, q * to_q),
        Cost(into_scores * to_k, 0, k * to_k * (scaled == 2), scores + q, k * to_k),
    )


def cross_entropy(rows: int, classes: int, *, grad: bool = True) -> Work:
    """Returns the work of log-softmax over each row and the mean of the chosen entries.

    Per logit 5 operations forward and 4 backward, per row 1 in each pass.
    """
    logits = rows * classes
    forward = Cost(other=5 * logits + rows, read=logits, written=1)
    return Work(
        "loss",
        forward,
        Cost(),
        Cost(other=4 * logits + rows, read=logits, written=logits) if grad else Cost(),
    )


def ctc(frames: int, labels: int, classes: int, *, grad: bool = True) -> Work:
    """Returns the work of the CTC loss of one utterance (Graves et al. 2006, equations 6-16).

    In log space over 2·labels+1 states, each α and β is a logsumexp of three (12) and one addition. The gradient
    sums α+β into each class (6 per state), then takes exp and two subtractions per class.
    """
    lattice = frames * (2 * labels + 1)
    forward = Cost(other=13 * lattice, read=frames * classes, written=1)
    backward = Cost(
        other=19 * lattice + 3 * frames * classes, read=frames * classes, written=frames * classes
    )
    return Work("loss", forward, Cost(), backward if grad else Cost())


def optimizer_ops(
    name: str,
    *,
    momentum: bool = False,
    nesterov: bool = False,
    weight_decay: bool = False,
    matrix: bool = True,
) -> int:
    """Returns the operations per parameter of one update, without those done once per tensor. Raises KeyError.

    SGD: w − η·g 2; decay g + λ·w 2; momentum m·v + g 2; Nesterov g + m·v 2. Adam: m 3, v 4,
    √v/√b + ε 3, w − η·m/d 3; decay 2, or 1 decoupled (AdamW). LARS: norms of w and g 4 and the
    rate 1 for matrices only, v 3, w − v 1.
    """
    if name in ("adam", "adamw"):
        return 13 + ((1 if name == "adamw" else 2) if weight_decay else 0)
    if name == "lars":
        return 4 + 2 * weight_decay + 5 * matrix + 3 * nesterov
    if name == "sgd":
        return 2 + 2 * weight_decay + 2 * momentum + 2 * nesterov
    raise KeyError(name)
