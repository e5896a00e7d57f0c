"""The closed forms of torch's functions: from one call's arguments to its `Work`.

Takes a `Call` seen at torch's own interface (`conv2d(x, w, ...)`, `lstm(...)`, `x + y`), before autograd and
before any kernel; returns the work of its three passes. Sizes come from the arguments, the need for a gradient
from `requires_grad`. Pure functions of shapes; no data is read. (...,) means any shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hpctrain.flops import rules
from hpctrain.flops.rules import Cost, Kind, Work

# A tensor's role: it is computed from parameters only, or (also) from the sample.
WEIGHT, SAMPLE = "weight", "sample"


class NoRule(Exception):
    """There is no closed form for a call. The text names it, with what is special about it."""


@dataclass(frozen=True)
class Call:
    """One call: its arguments `args` and `kwargs`, and its result `out`."""

    args: Sequence[Any]
    kwargs: dict[str, Any]
    out: Any

    def get(self, position: int, name: str, default: Any = None) -> Any:
        """Returns the argument at `position` or called `name`, or the default."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)

    @property
    def result(self) -> Tensor:
        """The first tensor of the result, of any shape (...,)."""
        return next(tensors(self.out))

    @property
    def role(self) -> str | None:
        """The result's role: SAMPLE if any operand has it, else WEIGHT if any has that, else None."""
        roles = {role(t) for t in tensors((self.args, self.kwargs), integers=True)}
        return SAMPLE if SAMPLE in roles else WEIGHT if WEIGHT in roles else None


def tensors(value: Any, *, integers: bool = False) -> Iterator[Tensor]:
    """Yields the floating-point tensors (...,) in nested tuples, lists and dictionaries, in order; with `integers`
    all tensors."""
    if isinstance(value, Tensor):
        if integers or value.is_floating_point():
            yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors(part, integers=integers)
    elif isinstance(value, dict):
        yield from tensors(tuple(value.values()), integers=integers)


def role(tensor: Tensor) -> str | None:
    """Returns the role of a tensor (...,): WEIGHT, SAMPLE, or None if it has neither."""
    return WEIGHT if isinstance(tensor, torch.nn.Parameter) else getattr(tensor, "flops_role", None)


# An operand, or several: the work that their gradients have in common is that of what they are combined to.
Operands = Tensor | None | Sequence[Tensor]


def work(call: Call, kind: Kind, forward: Cost, grads: Sequence[tuple[Operands, Cost]]) -> Work:
    """Returns the work of a call: `forward`, and those of `grads` (operands, their gradient's cost) that are needed."""
    passes = {WEIGHT: Cost(), SAMPLE: Cost()}
    if any(t.requires_grad for t in tensors(call.out)):
        for operands, cost in grads:
            found = [*tensors(operands)]
            if any(t.requires_grad for t in found):
                of_weights = call.role == WEIGHT or all(role(t) == WEIGHT for t in found)
                passes[WEIGHT if of_weights else SAMPLE] += cost
    return Work(kind, forward, passes[WEIGHT], passes[SAMPLE])


def moved(call: Call, **counts: int) -> Cost:
    """Returns the cost of a forward pass that reads every operand and writes every result once."""
    read, written = (sum(t.numel() for t in tensors(v)) for v in ((call.args, call.kwargs), call.out))
    return Cost(read=read, written=written, **counts)


# --- products ---------------------------------------------------------------------------------------------


def convolution(call: Call, *, transposed: bool = False) -> Work:
    """Returns the work of a convolution of any number of dimensions."""
    x, w, b, y = call.get(0, "input"), call.get(1, "weight"), call.get(2, "bias"), call.result
    dims = w.dim() - 2
    stride, padding = each(call.get(3, "stride", 1), dims), call.get(4, "padding", 0)
    groups = call.get(6, "groups", 1)
    dilation = each(call.get(7 if transposed else 5, "dilation", 1), dims)
    kernel, batch = w.shape[2:], math.prod(x.shape[: -dims - 1])
    if isinstance(padding, str):
        padding = [
            d * (k - 1) // 2 if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)
        ]
    channels = x.shape[-dims - 1], y.shape[-dims - 1]
    into_y, into_w, into_x = rules.convolution(
        batch,
        *channels,
        groups,
        x.shape[-dims:],
        y.shape[-dims:],
        kernel,
        stride,
        each(padding, dims),
        dilation,
        bias=b is not None,
        transposed=transposed,
    )
    return work(call, "layer", into_y, [(x, into_x), *_weight_and_bias(w, b, into_w)])


def linear(call: Call) -> Work:
    """Returns the work of x·Wᵀ + b."""
    x, w, b = call.get(0, "input"), call.get(1, "weight"), call.get(2, "bias")
    rows = math.prod(x.shape[:-1])
    into_y, into_w, into_x = rules.linear(rows, x.shape[-1], math.prod(w.shape[:-1]), bias=b is not None)
    return work(call, "layer", into_y, [(x, into_x), *_weight_and_bias(w, b, into_w)])


def _weight_and_bias(w: Tensor, b: Tensor | None, cost: Cost) -> list[tuple[Operands, Cost]]:
    return [(w, replace(cost, bias=0)), (b, Cost(bias=cost.bias))]


def each(value: Any, dims: int) -> list[int]:
    """Returns one value per dimension, from a single value or from all of them."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values * dims if len(values) == 1 else values


def product(call: Call, macs: int, a: Tensor, b: Tensor, added: Tensor | None = None) -> Work:
    """Returns the work of a product of `a` (..., n) and `b` (n, ...); each gradient costs as many MACs.

    If the other operand is a single vector, the gradient is an outer product: multiplications without a sum.
    """
    n, grads = call.result.numel(), []
    for one, other in ((a, b), (b, a)):
        outer = other.dim() == 1 and (other is b or b.dim() == 1)
        made = {"other" if outer else "macs": macs}
        grads.append((one, Cost(read=n + other.numel(), written=one.numel(), **made)))
    if added is not None:
        grads.append((added, Cost(bias=n if added.numel() < n else 0)))
    parameters = WEIGHT in (role(a), role(b))
    return work(
        call,
        "layer" if parameters else "attention",
        moved(call, macs=macs, bias=n * (added is not None)),
        grads,
    )


def matmul(call: Call) -> Work:
    """Returns the work of a product of two matrices, vectors or batches of matrices."""
    a, b = call.args[0], call.get(1, "other", call.kwargs.get("mat2"))
    return product(call, _matmul_macs(call, a), a, b)


def rmatmul(call: Call) -> Work:
    """Returns the work of a product whose operands are given in reverse."""
    b, a = call.args[:2]
    return product(call, _matmul_macs(call, a), a, b)


def _matmul_macs(call: Call, a: Tensor) -> int:
    return call.result.numel() * a.shape[-1]


def addmm(call: Call) -> Work:
    """Returns the work of a product that is added to a tensor."""
    if call.kwargs.get("alpha", 1) != 1 or call.kwargs.get("beta", 1) != 1:
        raise NoRule("addmm with factors")
    added, a, b = call.args[:3]
    return product(call, _matmul_macs(call, a), a, b, added)


def contraction(call: Call, macs: int, a: Tensor, b: Tensor) -> Work:
    """Returns the work of a sum of products of `a` and `b` (...,); each gradient is one as well, of as many MACs."""
    n = call.result.numel()
    grads = [
        (one, Cost(macs, read=n + other.numel(), written=one.numel())) for one, other in ((a, b), (b, a))
    ]
    parameters = WEIGHT in (role(a), role(b))
    return work(call, "layer" if parameters else "attention", moved(call, macs=macs), grads)


def tensordot(call: Call) -> Work:
    """Returns the work of a sum of products over some dimensions of `a` and `b`."""
    a, b, dims = call.args[0], call.get(1, "b"), call.get(2, "dims", 2)
    if isinstance(dims, Tensor):
        raise NoRule("tensordot over dimensions in a tensor")
    summed = a.shape[a.dim() - dims :] if isinstance(dims, int) else [a.shape[d] for d in _listed(dims[0])]
    return contraction(call, call.result.numel() * math.prod(summed), a, b)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def inner(call: Call) -> Work:
    """Returns the work of the products of all last vectors of both operands."""
    a, b = call.args[0], call.get(1, "other")
    macs = _matmul_macs(call, a)
    return product(call, macs, a, b) if a.dim() == b.dim() == 1 else contraction(call, macs, a, b)


def bilinear(call: Call) -> Work:
    """Returns the work of x·W·z + b for each output."""
    x, z, w, b = (call.get(i, n) for i, n in enumerate(("input1", "input2", "weight", "bias")))
    outputs, first, second = w.shape
    rows = math.prod(x.shape[:-1])
    into_y, into_w, into_x, into_z = rules.bilinear(rows, first, second, outputs, bias=b is not None)
    return work(call, "layer", into_y, [(x, into_x), (z, into_z), *_weight_and_bias(w, b, into_w)])


def embedding(call: Call) -> Work:
    """Returns the work of gathering rows; the backward pass adds each row of the gradient into its word's row."""
    w, n = call.get(1, "weight"), call.result.numel()
    return work(call, "memory", Cost(read=n, written=n), [(w, Cost(other=n, read=n, written=w.numel()))])


# --- element by element -----------------------------------------------------------------------------------


def elementwise(
    forward: int, first: int, second: int = 0, kind: Kind = "elementwise"
) -> Callable[[Call], Work]:
    """Returns a rule for operations per element: of the result, and of the gradients of both operands.

    The gradient of an operand that was broadcast is then summed, which is one more addition per element. A
    parameter that is added counts as a bias.
    """
    is_sum = (forward, first, second) == (1, 0, 0)

    def rule(call: Call) -> Work:
        n, dims = call.result.numel(), call.result.dim()
        operands = [a for a in (*call.args, *call.kwargs.values()) if isinstance(a, Tensor)][:2]
        charges = (first, second) if isinstance(call.args[0], Tensor) else (second, first)
        grads = [
            (t, Cost(other=n * (charge + (t.numel() < n or t.dim() < dims)), read=2 * n, written=t.numel()))
            for t, charge in zip(operands, charges, strict=False)
        ]
        done = {"bias" if is_sum and WEIGHT in map(role, operands) else "other": n * forward}
        return work(call, kind, moved(call, **done), grads)

    return rule


def addition(first: int, second: int) -> Callable[[Call], Work]:
    """Returns the rule of a sum or difference; a factor of the second operand costs a product in each pass."""

    def rule(call: Call) -> Work:
        scaled = int(call.get(2, "alpha", 1) != 1)
        return elementwise(1 + scaled, first, second + scaled)(call)

    return rule


def reversed_operands(rule: Callable[[Call], Work]) -> Callable[[Call], Work]:
    """Returns `rule` for swapped operands: Python calls `2 - x` as x.__rsub__(2)."""
    return lambda call: rule(Call(call.args[1::-1], call.kwargs, call.out))


def copying(call: Call) -> Work:
    """Returns the work of concatenation, gathering and the like: memory traffic without arithmetic."""
    grads = [(t, Cost(read=t.numel(), written=t.numel())) for t in tensors(call.args)]
    return work(call, "memory", moved(call), grads)


def repeat(call: Call) -> Work:
    """Returns the work of copies side by side: none; backward they are summed, each new dimension for itself."""
    x, n = call.args[0], call.result.numel()
    additions, left = 0, n
    for size in call.result.shape[: call.result.dim() - x.dim()]:
        additions, left = additions + left, left // size
    additions += left * (left > x.numel())
    return work(call, "memory", moved(call), [(x, Cost(other=additions, read=n, written=x.numel()))])


def prelu(call: Call) -> Work:
    """Returns the work of a PReLU: compare, multiply; both gradients cost 4, and the slope's is summed."""
    x, n = call.args[0], call.result.numel()
    w = call.args[1]
    grads: list[tuple[Operands, Cost]] = [
        ((x, w), Cost(other=4 * n, read=2 * n, written=n)),
        (w, Cost(other=n)),
    ]
    return work(call, "activation", moved(call, other=2 * n), grads)


def squared_error(call: Call) -> Work:
    """Returns the work of the mean squared error: −, square, and, unless it is kept for each element, a sum."""
    x, n = call.args[0], call.args[0].numel()
    grads = [(t, Cost(other=3 * n, read=2 * n, written=n)) for t in (x, call.args[1])]
    summed = call.get(4, "reduction", "mean") != "none"
    return work(call, "loss", moved(call, other=(2 + summed) * n), grads)


def where(call: Call) -> Work:
    """Returns the work of a selection: one operation per element, and one per element of each gradient.

    Between two single values it makes a mask, which is a constant.
    """
    if all(not isinstance(value, Tensor) or not value.dim() for value in call.args[1:3]):
        return Work("memory")
    return elementwise(1, 1, 1)(Call(call.args[1:], call.kwargs, call.out))


def variance(call: Call, *, root: bool = False) -> Work:
    """Returns the work of a variance: mean, −, square, sum (4 per element) and a division; backward the mean, −, ·.

    `root`: of a standard deviation, which costs a root more, and backward a product and a division.
    """
    x, n, out = call.args[0], call.args[0].numel(), call.result.numel()
    back = Cost(other=3 * n + (4 if root else 2) * out, read=n + out, written=n)
    return work(call, "elementwise", moved(call, other=4 * n + (1 + root) * out), [(x, back)])


def cumulative_sum(call: Call) -> Work:
    """Returns the work of a running sum: an addition per element in both passes; backward none over one element."""
    x, n, dim = call.args[0], call.result.numel(), call.get(1, "dim")
    back = n * (n > 1 and x.shape[dim] > 1)
    return work(call, "elementwise", moved(call, other=n), [(x, Cost(other=back, read=n, written=n))])


def log_sum_exp(call: Call) -> Work:
    """Returns the work of log Σ exp: max, −, exp, Σ per element; log, + per result. Backward −, exp, · per element."""
    x, n, out = call.args[0], call.args[0].numel(), call.result.numel()
    forward = moved(call, other=4 * n + 2 * out)
    return work(call, "elementwise", forward, [(x, Cost(other=3 * n, read=n + out, written=n))])


def largest(call: Call) -> Work:
    """Returns the work of a maximum or minimum: of two tensors, or of a tensor or along a dimension of it.

    A comparison per element. Backward, the gradient is given to the place that is known if it was along a dimension, is
    compared and selected per element for two tensors, and else is shared by all that are equal (`shared`).
    """
    second = call.get(1, "other", call.kwargs.get("dim"))
    if isinstance(second, Tensor):
        return elementwise(1, 2, 2)(call)
    if second is None:
        return shared_largest(call)
    x, out = call.args[0], call.result.numel()
    grads = [(x, Cost(read=out, written=x.numel()))]
    return work(call, "elementwise", moved(call, other=x.numel()), grads)


def shared_largest(call: Call) -> Work:
    """Returns the work of a maximum or minimum whose gradient is shared by all that are equal: ÷ per result, ·."""
    x, n, out = call.args[0], call.args[0].numel(), call.result.numel()
    back = Cost(other=n + out, read=n + out, written=n)
    return work(call, "elementwise", moved(call, other=n), [(x, back)])


def clamp(call: Call) -> Work:
    """Returns the work of a limit to one or two numbers: a comparison for each, and a selection backward."""
    bounds = [bound for bound in (call.get(1, "min"), call.get(2, "max")) if bound is not None]
    if any(isinstance(bound, Tensor) for bound in bounds):
        raise NoRule("clamp to a tensor")
    return elementwise(len(bounds), 1)(Call(call.args[:1], {}, call.out))


def power(call: Call) -> Work:
    """Returns the work of a power: backward a power and two products; of a number to a tensor, two products."""
    base, exponent = call.args[0], call.get(1, "exponent")
    if isinstance(base, Tensor) and isinstance(exponent, Tensor):
        raise NoRule("pow of a tensor to a tensor")
    if isinstance(base, Tensor):
        return elementwise(1, 3)(call)
    return elementwise(1, 2)(Call([exponent], {}, call.out))


def rpower(call: Call) -> Work:
    """Returns the work of a number to a tensor: Python calls `2 ** x` as x.__rpow__(2)."""
    return power(Call(call.args[1::-1], call.kwargs, call.out))


def gelu(call: Call) -> Work:
    """Returns the work of a GELU: by the error function as in rules.py, or by tanh.

    0.5·x·(1+tanh(√(2/π)·(x+0.044715·x³))) 9; backward the same polynomial 5, tanh, 1+t and halves 3, 1−t² 2, its
    derivative 3, products and sum 3, ·g.
    """
    if call.get(1, "approximate", "none") == "none":
        return elementwise(*rules.ACTIVATIONS["gelu"], kind="activation")(call)
    return elementwise(9, 18, kind="activation")(Call(call.args[:1], {}, call.out))


def added_at(call: Call) -> Work:
    """Returns the work of adding a source's values at given places: an addition for each; backward they are copied."""
    source = call.get(3, "source", call.kwargs.get("src"))
    grads = [(t, Cost(read=t.numel(), written=t.numel())) for t in (call.args[0], source)]
    return work(call, "elementwise", moved(call, other=source.numel()), grads)


def reduction(divide: bool) -> Callable[[Call], Work]:
    """Returns the rule of a sum, or of a mean if `divide`."""

    def rule(call: Call) -> Work:
        x, n, out = call.args[0], call.args[0].numel(), call.result.numel()
        forward = n + out * divide
        return work(
            call,
            "elementwise",
            moved(call, other=forward),
            [(x, Cost(other=n * divide, read=out, written=n))],
        )

    return rule


def dropout(call: Call, *, channels: bool = False) -> Work:
    """Returns the work of x times a mask of 0 or 1/(1−p): a division to make the mask, a product to apply it.

    `channels`: the mask has an entry for each sample and channel.
    """
    training = call.get(2, "training", True)
    if not training or call.get(1, "p", 0.5) == 0:
        return Work("memory")
    x, n = call.args[0], call.result.numel()
    made = math.prod(x.shape[:2]) if channels else n
    return work(call, "activation", moved(call, other=n + made), [(x, Cost(other=n, read=2 * n, written=n))])
