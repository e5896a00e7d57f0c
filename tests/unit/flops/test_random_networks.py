"""Random networks of 30 operators against counts by formulas that stand here, operator by operator.

Nothing of the product's rules is used: the formulas are written out from the definitions of the operators, with the
convention of hpctrain/flops/rules.py (a MAC is a product and an addition of a sum; every other operation is one).
"""

import math
import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hpctrain.flops.count import count

OPERATORS = 30
LARGEST = 3000  # elements of a tensor

# Operations per element of activations: forward, backward.
EACH = {
    "relu": (1, 1), "leaky_relu": (2, 2), "sigmoid": (1, 3), "tanh": (1, 3), "elu": (4, 4), "selu": (5, 5),
    "gelu": (5, 9), "silu": (2, 5), "mish": (5, 11), "hardswish": (5, 5), "softplus": (4, 4), "softsign": (3, 7),
    "logsigmoid": (7, 5), "tanhshrink": (2, 4), "relu6": (2, 2), "hardsigmoid": (4, 2),
}  # fmt: skip


class Chain(nn.Module):
    """Each step takes the result before it and that of an earlier step (or None)."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.modules_ = nn.ModuleList(part for part, _ in steps if isinstance(part, nn.Module))

    def forward(self, x):
        results = [x]
        for part, earlier in self.steps:
            given = [results[-1]] if earlier is None else [results[-1], results[earlier]]
            results.append(part(*given))
        return results[-1]


class Builder:
    """A network under construction: shapes and needs of its results, and the operations counted by hand."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.start = (self.rng.randint(1, 3), self.rng.choice([4, 6, 8]), *self.rng.choices(range(4, 9), k=2))
        self.shapes, self.needs = [self.start], [False]
        self.steps, self.kinds = [], []
        self.sums = dict.fromkeys(("forward", "weight", "input"), (0, 0))
        while len(self.steps) < OPERATORS:
            kind = self.rng.choice(KINDS)
            before = len(self.steps)
            kind(self)
            self.kinds += [kind.__name__] * (len(self.steps) - before)

    @property
    def shape(self):
        return self.shapes[-1]

    @property
    def n(self):
        return math.prod(self.shape)

    def one_of(self, *values):
        return self.rng.choice(values)

    def trained(self):
        return self.rng.random() < 0.8

    def earlier(self):
        """An earlier result of the same shape, or None."""
        same = [i for i, shape in enumerate(self.shapes[:-1]) if shape == self.shape]
        return self.rng.choice(same) if same else None

    def add(
        self,
        part,
        shape,
        forward=(0, 0),
        weight=(0, 0),
        into=(0, 0),
        trained=False,
        earlier=None,
        second=(0, 0),
    ):
        """Appends a step. Costs are (MACs, others); those of gradients count if they are needed."""
        if math.prod(shape) > LARGEST or min(shape) < 1:
            return
        if isinstance(part, nn.Module):
            for parameter in part.parameters():
                parameter.requires_grad_(trained)
        self.steps.append((part, earlier))
        also = earlier is not None and self.needs[earlier]
        costs = [("forward", forward, True), ("weight", weight, trained), ("input", into, self.needs[-1])]
        for name, cost, done in [*costs, ("input", second, also)]:
            if done:
                self.sums[name] = tuple(a + b for a, b in zip(self.sums[name], cost, strict=True))
        self.needs.append(self.needs[-1] or also or trained)
        self.shapes.append(tuple(shape))


def dims(*allowed):
    """The operator is for tensors with so many dimensions."""

    def wrap(kind):
        def only(b):
            if len(b.shape) in allowed:
                kind(b)

        only.__name__ = kind.__name__
        KINDS.append(only)
        return only

    return wrap


KINDS = []


# --- pictures (B, C, H, W) ---------------------------------------------------------------------------------


@dims(4)
def convolution(b):
    batch, c, h, w = b.shape
    groups = b.one_of(1, 1, 2, c) if c % 2 == 0 else 1
    out = groups * b.rng.randint(1, max(1, 8 // groups))
    k, stride, pad, dilation, bias = (
        b.rng.randint(1, 3),
        b.one_of(1, 1, 2),
        b.rng.randint(0, 2),
        b.one_of(1, 2),
        b.one_of(True, False),
    )
    mode = b.one_of("zeros", "reflect", "circular", "replicate") if 0 < pad < min(h, w) else "zeros"
    size = [(n + 2 * pad - dilation * (k - 1) - 1) // stride + 1 for n in (h, w)]
    if min(size) < 1:
        return
    # Each output is a sum over its group's channels and the kernel.
    macs = math.prod([batch, out, *size, c // groups, k, k])
    added = math.prod([batch, out, *size]) * bias
    layer = nn.Conv2d(c, out, k, stride, pad, dilation, groups, bias, mode)
    b.add(layer, (batch, out, *size), (macs, added), (macs, added), (macs, 0), b.trained())


@dims(4)
def transposed_convolution(b):
    batch, c, h, w = b.shape
    groups = b.one_of(1, 2) if c % 2 == 0 else 1
    out, k, stride = groups * b.rng.randint(1, 3), b.rng.randint(1, 3), b.one_of(1, 2)
    pad = b.rng.randint(0, (k - 1) // 2)
    size = [(n - 1) * stride - 2 * pad + k for n in (h, w)]
    # Each input is spread over its group's outputs and the kernel.
    macs, added = batch * c * h * w * (out // groups) * k * k, math.prod([batch, out, *size])
    layer = nn.ConvTranspose2d(c, out, k, stride, pad, groups=groups)
    b.add(layer, (batch, out, *size), (macs, added), (macs, added), (macs, 0), b.trained())


@dims(4)
def batch_norm(b):
    trained, n, c = b.trained(), b.n, b.shape[1]
    into = 4 * n + 3 * c + (0 if trained else 5 * n)
    if n > c:  # torch refuses one value per channel
        b.add(nn.BatchNorm2d(c), b.shape, (0, 8 * n + 10 * c), (0, 5 * n), (0, into), trained)


@dims(4)
def group_norm(b):
    trained, n, c = b.trained(), b.n, b.shape[1]
    groups = b.one_of(1, c)
    rows = b.shape[0] * groups
    if n == groups:  # torch refuses one value per channel
        return
    into = 8 * n + 2 * rows + (0 if trained else 2 * n)
    b.add(nn.GroupNorm(groups, c), b.shape, (0, 8 * n + 4 * rows), (0, 5 * n), (0, into), trained)


@dims(4)
def instance_norm(b):
    n, rows = b.n, b.shape[0] * b.shape[1]
    if b.shape[2] * b.shape[3] > 1:
        b.add(nn.InstanceNorm2d(b.shape[1]), b.shape, (0, 6 * n + 4 * rows), into=(0, 9 * n + 3 * rows))


@dims(4)
def max_pool(b):
    batch, c, h, w = b.shape
    k = b.rng.randint(1, 3)
    if min(h, w) >= k:
        out = (batch, c, h // k, w // k)
        b.add(nn.MaxPool2d(k), out, (0, math.prod(out) * k * k), into=(0, math.prod(out)))


@dims(4)
def mean_pool(b):
    batch, c, h, w = b.shape
    if min(h, w) >= 2:
        out = (batch, c, h - 1, w - 1)
        n = math.prod(out)
        b.add(nn.AvgPool2d(2, 1), out, (0, 5 * n), into=(0, 4 * n))


@dims(4)
def adaptive_pool(b):
    batch, c, h, w = b.shape
    out, windows = b.rng.randint(1, 5), 1
    for n in (h, w):
        windows *= sum(math.ceil((i + 1) * n / out) - math.floor(i * n / out) for i in range(out))
    n, windows = batch * c * out * out, batch * c * windows
    area = b.one_of(nn.AdaptiveAvgPool2d(out), lambda x: F.interpolate(x, size=(out, out), mode="area"))
    b.add(area, (batch, c, out, out), (0, windows + n), into=(0, windows))


@dims(4)
def interpolation(b):
    batch, c, h, w = b.shape
    size = tuple(max(1, n + b.rng.randint(-2, 3)) for n in (h, w))
    mode = b.one_of("nearest", "bilinear", "bicubic")
    n = batch * c * math.prod(size)
    values = {"nearest": 0, "bilinear": 4, "bicubic": 16}[mode]  # a product and an addition for each
    into = 2 * values * n if values else n
    b.add(
        lambda x: F.interpolate(x, size=size, mode=mode),
        (batch, c, *size),
        (0, 2 * values * n),
        into=(0, into),
    )


@dims(4)
def shuffled_pixels(b):
    batch, c, h, w = b.shape
    if c % 4 == 0:
        b.add(nn.PixelShuffle(2), (batch, c // 4, 2 * h, 2 * w))
    elif h % 2 == w % 2 == 0:
        b.add(nn.PixelUnshuffle(2), (batch, 4 * c, h // 2, w // 2))


@dims(4)
def channel_dropout(b):
    b.add(nn.Dropout2d(0.4), b.shape, (0, b.n + b.shape[0] * b.shape[1]), into=(0, b.n))


@dims(4)
def windows(b):
    batch, c, h, w = b.shape
    if min(h, w) < 2 or 4 * b.n > LARGEST:
        return
    columns = batch * c * 4 * (h - 1) * (w - 1)
    # fold adds up forward, unfold backward.
    b.add(lambda x: F.fold(F.unfold(x, 2), (h, w), 2), b.shape, (0, columns), into=(0, columns))


@dims(4)
def squeeze_and_excitation(b):
    n, rows = b.n, b.shape[0] * b.shape[1]
    # Mean, σ, product; backward two products, a sum over places, σ 3, the mean's division.
    b.add(
        lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)), b.shape, (0, n + rows + rows + n),
        into=(0, 2 * n + n * (rows < n) + 3 * rows + n),
    )  # fmt: skip


@dims(4)
def largest_of_channels(b):
    batch, _, h, w = b.shape
    if b.one_of(True, False):
        b.add(lambda x: x.max(1, keepdim=True)[0].expand(-1, 4, -1, -1), (batch, 4, h, w), (0, b.n))
    else:
        out = batch * h * w
        b.add(
            lambda x: x.amax(1, keepdim=True).expand(-1, 4, -1, -1),
            (batch, 4, h, w),
            (0, b.n),
            into=(0, b.n + out),
        )


@dims(4)
def to_sequence(b):
    batch, c, h, w = b.shape
    b.add(lambda x: x.flatten(2).transpose(1, 2), (batch, h * w, c))


# --- sequences (B, T, D) -----------------------------------------------------------------------------------


@dims(3)
def to_picture(b):
    batch, t, d = b.shape
    side = next(s for s in range(math.isqrt(t), 0, -1) if t % s == 0)
    b.add(lambda x: x.transpose(1, 2).reshape(batch, d, side, t // side), (batch, d, side, t // side))


@dims(2, 3, 4)
def linear(b):
    *rows, d = b.shape
    out, bias, rows = b.rng.randint(2, 8), b.one_of(True, False), math.prod(rows)
    macs, added = rows * d * out, rows * out * bias
    layer = nn.Linear(d, out, bias=bias)
    b.add(layer, (*b.shape[:-1], out), (macs, added), (macs, added), (macs, 0), b.trained())


@dims(3)
def layer_norm(b):
    trained, n, rows = b.trained(), b.n, b.n // b.shape[-1]
    into = 8 * n + 2 * rows + (0 if trained else 2 * n)
    b.add(nn.LayerNorm(b.shape[-1]), b.shape, (0, 8 * n + 4 * rows), (0, 5 * n), (0, into), trained)


@dims(3)
def rms_norm(b):
    n, d = b.n, b.shape[-1]
    rows = n // d
    # x², Σ, x·r, γ; per row ÷, +ε, 1/√. Backward γ, x·g and r·g, Σ, ÷, 3 for x²; per row 3. Into γ: ·, Σ over rows.
    forward, into = 4 * n + 3 * rows, (7 + (d > 1)) * n + 3 * rows
    b.add(nn.RMSNorm(d), b.shape, (0, forward), (0, 2 * n), (0, into), b.trained())


class SelfAttention(nn.Module):
    def __init__(self, heads, kind):
        super().__init__()
        self.heads, self.kind = heads, kind

    def forward(self, x):
        q = x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)
        t, mask = x.shape[1], None
        if self.kind == "mask":
            mask = torch.ones(t, t, dtype=torch.bool, device=x.device).tril()
        out = F.scaled_dot_product_attention(q, q, q, attn_mask=mask, is_causal=self.kind == "causal")
        return out.transpose(1, 2).reshape(x.shape)


@dims(3)
def attention(b):
    batch, t, d = b.shape
    heads, kind = b.one_of(1, 2) if d % 2 == 0 else 1, b.one_of("plain", "causal", "mask")
    scores, masked = batch * heads * t * t, kind != "plain"
    if scores > LARGEST:
        return
    # Two products of T x T x D; softmax 5, mask 1, both operands scaled. Backward four, softmax 4, both scaled.
    macs = 2 * batch * t * t * d
    forward, into = (macs, scores * (5 + masked) + 2 * b.n), (2 * macs, 4 * scores + 2 * b.n)
    b.add(SelfAttention(heads, kind), b.shape, forward, into=into)


class MultiHead(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.layer = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x):
        return self.layer(x, x, x, need_weights=False)[0]


@dims(3)
def multi_head_attention(b):
    batch, t, d = b.shape
    heads = b.one_of(1, 2) if d % 2 == 0 else 1
    scores, rows, trained = batch * heads * t * t, batch * t, b.trained()
    if scores > LARGEST:
        return
    projections, products = 4 * rows * d * d, 2 * batch * t * t * d
    forward = (projections + products, 4 * rows * d + 5 * scores + 2 * b.n)
    # Into the heads and through the output projection if anything before them needs a gradient.
    inner = (2 * products + rows * d * d, 4 * scores + 2 * b.n)
    if trained and not b.needs[-1]:
        b.sums["input"] = (b.sums["input"][0] + inner[0], b.sums["input"][1] + inner[1])
    into = (inner[0] + 3 * rows * d * d, inner[1])
    before = len(b.steps)
    b.add(MultiHead(d, heads), b.shape, forward, (projections, 4 * rows * d), into, trained)
    assert len(b.steps) == before + 1


class Last(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


@dims(3)
def recurrence(b):
    batch, t, d = b.shape
    hidden, cell = b.rng.randint(2, 5), b.one_of("lstm", "gru")
    gates, ahead, back = {"lstm": (4, 13, 21), "gru": (3, 10, 14)}[cell]
    trained, needs, steps = b.trained(), b.needs[-1], batch * t
    into, through = gates * hidden * d, gates * hidden * hidden
    macs, bias = steps * (into + through), 2 * steps * gates * hidden
    # The first state is zero and needs no gradient. Its c (LSTM), or U·h if U is not trained (GRU), saves one per unit.
    saved = batch * hidden * (cell == "lstm" or not trained)
    inner = ((steps - batch) * through, steps * hidden * back - saved)
    if trained and not needs:
        b.sums["input"] = (b.sums["input"][0] + inner[0], b.sums["input"][1] + inner[1])
    layer = Last((nn.LSTM if cell == "lstm" else nn.GRU)(d, hidden, batch_first=True))
    b.add(
        layer, (batch, t, hidden), (macs, bias + steps * hidden * ahead), (macs, bias),
        (inner[0] + steps * into, inner[1]), trained,
    )  # fmt: skip


@dims(3)
def convolution_over_time(b):
    batch, t, d = b.shape
    out, k, dilation = b.rng.randint(1, 6), b.rng.randint(1, 3), b.one_of(1, 2)
    macs, added = batch * out * t * d * k, batch * out * t
    pad = nn.ConstantPad1d((dilation * (k - 1), 0), 0.0)
    layer = nn.Sequential(pad, nn.Conv1d(d, out, k, dilation=dilation))
    b.add(Turned(layer), (batch, t, out), (macs, added), (macs, added), (macs, 0), b.trained())


class Turned(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.transpose(1, 2)).transpose(1, 2)


class WithWeight(nn.Module):
    def __init__(self, function, *shape):
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.empty(*shape))

    def forward(self, x):
        return self.function(x, self.weight)


@dims(3)
def product_with_a_weight(b):
    batch, t, d = b.shape
    out = b.rng.randint(2, 6)
    macs = batch * t * d * out
    if d == 1:
        return
    form = b.one_of(
        lambda x, w: torch.einsum("btd,do->bto", x, w), lambda x, w: torch.einsum("...d,do->...o", x, w),
        lambda x, w: x @ w, lambda x, w: torch.tensordot(x, w, dims=1),
    )  # fmt: skip
    b.add(WithWeight(form, d, out), (batch, t, out), (macs, 0), (macs, 0), (macs, 0), b.trained())


@dims(3)
def gram(b):
    batch, t, d = b.shape
    if batch * t * t <= LARGEST and d > 1:
        macs = batch * t * t * d
        form = b.one_of(
            lambda x: x @ x.mT, lambda x: torch.einsum("bid,bjd->bij", x, x), lambda x: torch.bmm(x, x.mT)
        )
        b.add(form, (batch, t, t), (macs, 0), into=(2 * macs, 0))


@dims(3)
def mean_over_time(b):
    batch, _, d = b.shape
    b.add(lambda x: x.mean(1), (batch, d), (0, b.n + batch * d), into=(0, b.n))


# --- any tensor ------------------------------------------------------------------------------------------------


@dims(2)
def to_three(b):
    batch, d = b.shape
    t = next(k for k in (3, 2, 1) if d % k == 0)
    b.add(lambda x: x.view(batch, t, d // t), (batch, t, d // t))


class Both(nn.Module):
    def __init__(self, first, out):
        super().__init__()
        self.layer = nn.Bilinear(first, first, out)

    def forward(self, x, y):
        return self.layer(x, y)


@dims(2)
def bilinear(b):
    rows, d = b.shape
    earlier, out = b.earlier(), b.rng.randint(1, 5)
    if earlier is not None:
        whole = rows * out * d * d
        b.add(
            Both(d, out), (rows, out), (whole + rows * out * d, rows * out), (whole, rows * out + rows * out * d),
            (whole + rows * d * d, 0), b.trained(), earlier, (whole + rows * out * d, 0),
        )  # fmt: skip


@dims(2, 3, 4)
def activation(b):
    name = b.rng.choice(sorted(EACH))
    forward, into = EACH[name]
    b.add(getattr(F, name), b.shape, (0, forward * b.n), into=(0, into * b.n))


@dims(2, 3, 4)
def tanh_gelu(b):
    b.add(nn.GELU(approximate="tanh"), b.shape, (0, 9 * b.n), into=(0, 18 * b.n))


@dims(2, 3, 4)
def softmax(b):
    b.add(nn.Softmax(-1), b.shape, (0, 5 * b.n), into=(0, 4 * b.n))


@dims(2, 3, 4)
def gated(b):
    if b.shape[1] % 2 == 0:
        shape = (b.shape[0], b.shape[1] // 2, *b.shape[2:])
        n = math.prod(shape)
        b.add(nn.GLU(1), shape, (0, 2 * n), into=(0, 5 * n))


@dims(2, 3, 4)
def dropout(b):
    b.add(nn.Dropout(0.2), b.shape, (0, 2 * b.n), into=(0, b.n))


@dims(2, 3, 4)
def residual(b):
    earlier = b.earlier()
    if earlier is not None:
        b.add(torch.add, b.shape, (0, b.n), earlier=earlier)


@dims(2, 3, 4)
def product(b):
    earlier = b.earlier()
    if earlier is not None:
        b.add(torch.mul, b.shape, (0, b.n), into=(0, b.n), earlier=earlier, second=(0, b.n))


@dims(2, 3, 4)
def larger(b):
    earlier = b.earlier()
    if earlier is not None:
        # The gradient is halved where both are equal, and selected.
        form = b.one_of(torch.maximum, torch.minimum, torch.max)
        b.add(form, b.shape, (0, b.n), into=(0, 2 * b.n), earlier=earlier, second=(0, 2 * b.n))


@dims(2, 3, 4)
def joined(b):
    earlier = b.earlier()
    if earlier is not None:
        shape = (b.shape[0], 2 * b.shape[1], *b.shape[2:])
        b.add(lambda x, y: torch.cat([x, y], 1), shape, earlier=earlier)


@dims(2, 3)
def unit_vectors(b):
    n, d = b.n, b.shape[-1]
    rows = n // d
    if d > 1:
        # x², Σ, √, max, ÷. Backward: ÷; for the length ÷, −, ·, ÷; its selection per row; x/‖x‖, ·.
        b.add(lambda x: F.normalize(x, dim=-1), b.shape, (0, 3 * n + 2 * rows), into=(0, 7 * n + rows))


@dims(2, 3, 4)
def cumulative_sum(b):
    # Of a single element there is nothing to add up backward.
    b.add(lambda x: x.cumsum(-1), b.shape, (0, b.n), into=(0, b.n * (b.shape[-1] > 1)))


@dims(2, 3, 4)
def without_arithmetic(b):
    k = b.rng.randint(1, b.shape[-1])
    form = b.rng.choice(["sort", "topk", "roll", "flip", "index"])
    where = torch.zeros(k, dtype=torch.int64)
    functions = {
        "sort": lambda x: x.sort(-1)[0], "topk": lambda x: x.topk(k, -1)[0], "roll": lambda x: x.roll(1, 1),
        "flip": lambda x: x.flip(1), "index": lambda x: x.index_select(-1, where.to(x.device)),
    }  # fmt: skip
    shape = (*b.shape[:-1], k) if form in ("topk", "index") else b.shape
    b.add(functions[form], shape)


@dims(2, 3, 4)
def standardised(b):
    n, d = b.n, b.shape[-1]
    rows = n // d
    if d > 1:
        # Mean n + 1, x−μ n; deviation 4n and ÷, √ per row; ÷ n. Backward: ÷ 1, 4 for the divisor and its sum 1; the
        # deviation 3n and 4 per row; x−μ: its second operand's −, and the sum 1; the mean's ÷ 1.
        b.add(
            lambda x: (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True), b.shape,
            (0, 7 * n + 3 * rows), into=(0, 6 * n + 3 * n + 4 * rows + 2 * n + n),
        )  # fmt: skip


def check(seed):
    torch.manual_seed(seed)
    b = Builder(seed)
    model = Chain(b.steps).train()
    found = count(model, [torch.empty(b.start, device="meta")])
    passes = {
        "forward": found.forward,
        "weight": sum((layer.weight_grad for layer in found.layers), type(found.forward)()),
        "input": sum((layer.input_grad for layer in found.layers), type(found.forward)()),
    }
    counted = {name: (cost.macs, cost.arithmetic) for name, cost in passes.items()}
    assert counted == b.sums, f"seed {seed}: {b.kinds}"
    return set(b.kinds)


def test_random_networks_are_counted_as_by_hand():
    seen = set()
    for seed in range(24):
        seen |= check(seed)
    assert seen == {kind.__name__ for kind in KINDS}


@pytest.mark.long
@pytest.mark.parametrize("start", range(1000, 5000, 500))
def test_many_random_networks_are_counted_as_by_hand(start):
    for seed in range(start, start + 500):
        check(seed)
