"""Closed forms for torch's attention calls. Each takes a `Call` and returns its `Work`, as in calls.py."""

from __future__ import annotations

import math

from torch import Tensor

from hpctrain.flops import rules
from hpctrain.flops.calls import SAMPLE, WEIGHT, Call, role, work
from hpctrain.flops.rules import Cost, Work


def dot_product_attention(call: Call) -> Work:
    """Returns the work of scaled_dot_product_attention: the scale is applied to q and k, a floating mask is added."""
    names = ("query", "key", "value", "attn_mask", "dropout_p")
    q, k, v, mask, dropout = (call.get(i, n) for i, n in enumerate(names))
    products = math.prod(call.result.shape[:-2])
    forward, (into_v, through, into_q, into_k) = rules.attention(
        products,
        q.shape[-2],
        k.shape[-2],
        q.shape[-1],
        v.shape[-1],
        scaled=2,
        masked=mask is not None or bool(call.get(5, "is_causal", False)),
        dropout=bool(dropout),
        grads=(q.requires_grad, k.requires_grad, v.requires_grad),
    )
    scores = products * q.shape[-2] * k.shape[-2]
    learned = mask if mask is not None and mask.is_floating_point() else None
    into_mask = Cost(other=scores if learned is not None and learned.numel() < scores else 0)
    grads = [(v, into_v), ((q, k), through), (q, into_q), (k, into_k), (learned, into_mask)]
    return work(call, "attention", forward, grads)


def multi_head_attention(call: Call) -> Work:
    """Returns the work of the projections of q, k and v, the heads and the output projection (Vaswani et al. 2017).

    If the weights are requested, their mean over the heads costs an addition per entry and a division.
    """
    q, k, v = (call.get(i, n) for i, n in enumerate(("query", "key", "value")))
    width, heads = call.get(3, "embed_dim_to_check"), call.get(4, "num_heads")
    in_weight, in_bias = call.get(5, "in_proj_weight"), call.get(6, "in_proj_bias")
    out_weight, out_bias = call.get(11, "out_proj_weight"), call.get(12, "out_proj_bias")
    training, padding = call.get(13, "training", True), call.get(14, "key_padding_mask")
    need_weights, mask = call.get(15, "need_weights", True), call.get(16, "attn_mask")
    weights = [in_weight] * 3
    if call.get(17, "use_separate_proj_weight", False):
        weights = [call.get(18 + i, f"{n}_proj_weight") for i, n in enumerate("qkv")]

    forward, passes = Cost(), {WEIGHT: Cost(), SAMPLE: Cost()}
    needed, roles = [], []  # of q, k and v after their projections
    for x, w in zip((q, k, v), weights, strict=True):
        rows = math.prod(x.shape[:-1])
        into_y, into_w, into_x = rules.linear(rows, x.shape[-1], width, bias=in_bias is not None)
        forward += into_y
        roles.append(WEIGHT if role(x) == WEIGHT else SAMPLE)
        needed.append(_grad(x) or _grad(w) or _grad(in_bias))
        passes[WEIGHT] += _trained(into_w, w, in_bias)
        passes[roles[-1]] += into_x if x.requires_grad else Cost()

    samples = q.shape[1] if q.dim() == 3 else 1
    inner, (into_v, through, into_q, into_k) = rules.attention(
        samples * heads,
        q.shape[0],
        k.shape[0],
        width // heads,
        width // heads,
        scaled=1 if need_weights else 2,
        masked=mask is not None or padding is not None,
        dropout=training and call.get(10, "dropout_p", 0.0) > 0,
        grads=(needed[0], needed[1], needed[2]),
    )
    rows = q.shape[0] * samples
    into_y, into_w, into_heads = rules.linear(rows, width, width, bias=out_bias is not None)
    forward += inner + into_y
    passes[WEIGHT] += _trained(into_w, out_weight, out_bias)
    if any(needed):
        scores = WEIGHT if roles[:2] == [WEIGHT, WEIGHT] else SAMPLE
        whole = WEIGHT if set(roles) == {WEIGHT} else SAMPLE
        parts = (
            (roles[2], into_v),
            (scores, through),
            (roles[0], into_q),
            (roles[1], into_k),
            (whole, into_heads),
        )
        for part, cost in parts:
            passes[part] += cost
    if need_weights and call.get(22, "average_attn_weights", True):
        forward += Cost(other=rows * k.shape[0] * (heads + 1))
    return Work("attention", forward, passes[WEIGHT], passes[SAMPLE])


def _grad(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.requires_grad


def _trained(cost: Cost, weight: Tensor, bias: Tensor | None) -> Cost:
    return Cost(cost.macs * _grad(weight), cost.bias * _grad(bias), 0, cost.read, cost.written)
