"""Closed forms for the lengths of vectors, and for what is divided by them. As in calls.py."""

from __future__ import annotations

import math

from torch import Tensor

from hpctrain.flops import rules
from hpctrain.flops.calls import Call, NoRule, moved, work
from hpctrain.flops.rules import Cost, Work


def norm(call: Call, *, order: str = "p", matrices: bool = False) -> Work:
    """Returns the work of a norm of vectors. `order` names torch's argument.

    `matrices`: if an order is given, two dimensions are those of a matrix, whose norms have no rule.
    """
    x, p, dim = call.args[0], call.get(1, order), call.get(2, "dim")
    pairs = len(dim) == 2 if isinstance(dim, list | tuple) else dim is None and x.dim() == 2
    if matrices and p is not None and pairs:
        raise NoRule("norm of matrices")
    out = call.result.numel()
    forward, backward = rules.norm(x.numel(), out, _order(p))
    grads = [(x, Cost(other=backward, read=x.numel() + out, written=x.numel()))]
    return work(call, "elementwise", moved(call, other=forward), grads)


def _order(p: object) -> int:
    if p in (None, "fro", 2):
        return 2
    if p == 1:
        return 1
    raise NoRule(f"norm of order {p}")


def normalize(call: Call) -> Work:
    """Returns the work of dividing vectors by their lengths."""
    x, dim = call.args[0], call.get(2, "dim", 1)
    dims = dim if isinstance(dim, list | tuple) else [dim]
    rows = x.numel() // math.prod(x.shape[d] for d in dims)
    forward, backward = rules.normalize(x.numel(), rows, _order(call.get(1, "p", 2.0)))
    return work(call, "normalisation", forward, [(x, backward)])


def cosine_similarity(call: Call) -> Work:
    """Returns the work of the cosines between two tensors' vectors."""
    x, y, dim = call.get(0, "x1"), call.get(1, "x2"), call.get(2, "dim", 1)
    if x.shape != y.shape:
        raise NoRule("cosine_similarity of different shapes")
    if x.shape[dim] == 1:
        raise NoRule("cosine_similarity of single numbers")
    forward, backward = rules.cosine_similarity(x.numel(), x.numel() // x.shape[dim])
    return work(call, "normalisation", forward, [(x, backward), (y, backward)])


def pairwise_distance(call: Call) -> Work:
    """Returns the work of ‖x − y + ε‖ for each pair of vectors."""
    x, y = call.get(0, "x1"), call.get(1, "x2")
    if x.shape != y.shape:
        raise NoRule("pairwise_distance of different shapes")
    n, out = x.numel(), call.result.numel()
    forward, backward = rules.norm(n, out, _order(call.get(2, "p", 2.0)))
    grads = [
        ((x, y), Cost(other=backward, read=n + out, written=n)),
        (y, Cost(other=n, read=n, written=n)),
    ]
    return work(call, "elementwise", moved(call, other=2 * n + forward), grads)


def weight_norm(call: Call) -> Work:
    """Returns the work of a weight made of a direction v and lengths g."""
    v, g = call.get(0, "v"), call.get(1, "g")
    if v.requires_grad != g.requires_grad:
        raise NoRule("weight_norm with one of direction and length frozen")
    forward, backward = rules.weight_norm(v.numel(), g.numel())
    return work(call, "normalisation", forward, [(v, backward)])


def rms_norm(call: Call) -> Work:
    """Returns the work of dividing vectors by the root of their mean square."""
    x, shape, w = call.args[0], call.get(1, "normalized_shape"), call.get(2, "weight")
    n, rows = x.numel(), x.numel() // math.prod(shape)
    into_y, into_w, into_x = rules.rms_norm(
        n,
        rows,
        w.numel() if isinstance(w, Tensor) else 0,
        summed=isinstance(w, Tensor) and (w.numel() < n or w.dim() < x.dim()),
        repeated=rows < n,
    )
    return work(call, "normalisation", into_y, [(x, into_x), (w, into_w)])
