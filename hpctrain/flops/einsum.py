"""The closed form of torch.einsum, of one or two operands. Takes a `Call`, returns its `Work`, as in calls.py.

Torch multiplies three operands and more in an order that depends on what else is installed: they have no rule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from hpctrain.flops.calls import WEIGHT, Call, NoRule, contraction, moved, role, tensors, work
from hpctrain.flops.rules import Cost, Kind, Work


def einsum(call: Call) -> Work:
    """Returns the work of an einsum.

    An index that one operand alone has, and the result has not, is summed first: an addition per element. Then the
    operands are multiplied: MACs if an index is summed, Π of all sizes; else plain products.
    """
    equation, operands = call.args[0], list(tensors(call.args[1:], integers=True))
    if len(operands) > 2:
        raise NoRule(f"einsum of {len(operands)} operands")
    terms, result = indices(equation, [operand.dim() for operand in operands])
    shapes = [dict(zip(term, x.shape, strict=True)) for term, x in zip(terms, operands, strict=True)]
    if len(operands) == 1:
        n = math.prod(shapes[0].values()) if set(terms[0]) - set(result) else 0
        grads = [(operands[0], Cost(read=call.result.numel(), written=operands[0].numel()))]
        return work(call, "elementwise", moved(call, other=n), grads)
    return _pair(call, operands, shapes, result)


def indices(equation: str, dims: Sequence[int]) -> tuple[list[str], str]:
    """Returns the indices of each operand and of the result, a letter each; `dims` are the operands' dimensions.

    An ellipsis stands for as many letters as it has dimensions, counted from the last. Without an arrow the result has
    the ellipsis, and then all letters that occur once, in order.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    lengths = [
        n - len(term.replace("...", "")) if "..." in term else 0 for term, n in zip(terms, dims, strict=True)
    ]
    hidden = "".join(chr(0x100 + n) for n in reversed(range(max(lengths))))
    if not arrow:
        letters = left.replace(",", "").replace("...", "")
        right = "..." + "".join(c for c in sorted(set(letters)) if letters.count(c) == 1)
    parts = [term.replace("...", hidden[len(hidden) - n :]) for term, n in zip(terms, lengths, strict=True)]
    return parts, right.replace("...", hidden)


def _pair(call: Call, operands: Sequence[Tensor], shapes: Sequence[Mapping[str, int]], result: str) -> Work:
    # A dimension of size 1 is repeated where the other operand has more: as if it were not there.
    own = [{c: n for c, n in shape.items() if n > 1} for shape in shapes]
    summed = [
        {c for c in mine if c not in others and c not in result}
        for mine, others in ((own[0], own[1]), (own[1], own[0]))
    ]
    first = sum(math.prod(mine.values()) for mine, gone in zip(own, summed, strict=True) if gone)
    left = [{c: n for c, n in mine.items() if c not in gone} for mine, gone in zip(own, summed, strict=True)]
    whole = math.prod((left[0] | left[1]).values())
    if any(c not in result for c in left[0].keys() & left[1].keys()):
        done = contraction(call, whole, *operands)
        return Work(done.kind, done.forward + Cost(other=first), done.weight_grad, done.input_grad)
    grads = [
        (x, Cost(other=whole * (1 + (math.prod(mine.values()) < whole)), read=2 * whole, written=x.numel()))
        for x, mine in zip(operands, left, strict=True)
    ]
    kind: Kind = "layer" if WEIGHT in map(role, operands) else "elementwise"
    return work(call, kind, moved(call, other=whole + first), grads)
