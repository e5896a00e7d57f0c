"""The cost of each aten operator, from the shapes of its operands and results: the trace's own rules.

Takes an operator's arguments and result as torch's dispatcher sees them, returns (MACs, other operations). It
knows no layers and shares no formula with rules.py; both count the operations that rules.py defines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Count = tuple[int, int]
Operator = Callable[[Sequence[Any], Any], Count]

aten = torch.ops.aten


def each(charge: int) -> Operator:
    """Returns a rule with `charge` operations per element of the result."""
    return lambda args, out: (0, charge * _first(out).numel())


def each_input(charge: int) -> Operator:
    """Returns a rule with `charge` operations per element of the first operand."""
    return lambda args, out: (0, charge * _first(args).numel())


def _first(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else next(t for t in value if isinstance(t, Tensor))


def _mm(args: Sequence[Any], out: Tensor) -> Count:
    return out.numel() * args[0].shape[-1], 0


def _addmm(args: Sequence[Any], out: Tensor) -> Count:
    return out.numel() * args[1].shape[-1], out.numel()


def _conv(x: Sequence[int], w: Sequence[int], y: Sequence[int], transposed: bool) -> int:
    """Returns the MACs: each weight is used once per sample and position of the output (of the input if transposed)."""
    return math.prod(w) * x[0] * math.prod((x if transposed else y)[2:])


def _convolution(args: Sequence[Any], out: Tensor) -> Count:
    x, w, b, transposed = args[0], args[1], args[2], args[6]
    return _conv(x.shape, w.shape, out.shape, transposed), out.numel() if b is not None else 0


def _add(args: Sequence[Any], out: Tensor) -> Count:
    return 0, out.numel() * (1 + (args[2] != 1))


def _sum(args: Sequence[Any], out: Tensor) -> Count:
    return 0, args[0].numel()


def _mean(args: Sequence[Any], out: Tensor) -> Count:
    return 0, _sum(args, out)[1] + out.numel()


def _window(args: Sequence[Any], dims: int) -> int:
    return int(math.prod(args[1]) if len(args[1]) == dims else args[1][0] ** dims)


def _max_pool(dims: int) -> Operator:
    return lambda args, out: (0, out[0].numel() * _window(args, dims))


def _mean_pool(dims: int) -> Operator:
    return lambda args, out: (0, out.numel() * (_window(args, dims) + 1))


def _mean_pool_backward(dims: int) -> Operator:
    return lambda args, out: (0, args[0].numel() * _window(args[1:], dims))


def _bins(x: Tensor, y: Tensor, dims: int) -> int:
    """Returns the number of elements of all windows of adaptive pooling, summed window by window."""
    total = math.prod(x.shape[:-dims])
    for size, outputs in zip(x.shape[-dims:], y.shape[-dims:], strict=True):
        total *= sum(
            math.ceil((i + 1) * size / outputs) - math.floor(i * size / outputs) for i in range(outputs)
        )
    return total


def _adaptive_mean(dims: int) -> Operator:
    return lambda args, out: (0, _bins(args[0], out, dims) + out.numel())


def _adaptive_mean_backward(dims: int) -> Operator:
    return lambda args, out: (0, _bins(out, args[0], dims))


def _adaptive_max(dims: int) -> Operator:
    return lambda args, out: (0, _bins(args[0], out[0], dims))


def _batch_norm(args: Sequence[Any], out: Any) -> Count:
    x, w, tracked, training = args[0], args[1], args[3], args[5]
    channels = x.shape[1]
    if not training:
        return 0, x.numel() * (2 + 2 * (w is not None)) + 2 * channels
    # Mean and variance 4, x̂ 2; division twice, ε, root; two running averages of 3.
    own = 4 + 2 * 3 * (tracked is not None)
    return 0, x.numel() * (6 + 2 * (w is not None)) + own * channels


def _layer_norm(args: Sequence[Any], out: Any) -> Count:
    x, w = args[0], args[2]
    return 0, x.numel() * (6 + 2 * (w is not None)) + 4 * out[1].numel()


def _group_norm(args: Sequence[Any], out: Any) -> Count:
    x, w = args[0], args[1]
    return 0, x.numel() * (6 + 2 * (w is not None)) + 4 * out[1].numel()


def _nll(args: Sequence[Any], out: Any) -> Count:
    return 0, args[1].numel()


def _nll_backward(args: Sequence[Any], out: Any) -> Count:
    return 0, args[2].numel()


def _ctc_cells(input_lengths: Any, target_lengths: Any) -> int:
    """Returns frames times states, summed over the utterances."""
    return sum(int(t) * (2 * int(u) + 1) for t, u in zip(input_lengths, target_lengths, strict=True))


def _ctc(args: Sequence[Any], out: Any) -> Count:
    return 0, 13 * _ctc_cells(*args[2:4])


def _ctc_backward(args: Sequence[Any], out: Any) -> Count:
    frames = sum(int(t) for t in args[3])
    return 0, 19 * _ctc_cells(*args[3:5]) + 3 * frames * args[1].shape[-1]


def _norm(args: Sequence[Any], out: Tensor) -> Count:
    """Square or absolute value, and sum; a root. Of the order that is given, else 2."""
    order = 2 if args[1] is None else args[1]
    return 0, (2 * args[0].numel() if order in (1, 2) else 0) + out.numel() * (order == 2)


def _trilinear(args: Sequence[Any], out: Tensor) -> Count:
    """The first two operands are multiplied and summed over what the third has not, then multiplied by it."""
    lacks = [set(dims) for dims in args[3:6]]
    sizes: dict[int, int] = {}
    for operand, without in zip(args[:3], lacks, strict=True):
        kept = (d for d in range(operand.dim() + len(without)) if d not in without)
        sizes |= dict(zip(kept, operand.shape, strict=True))
    pair = sizes.keys() - (lacks[0] & lacks[1])
    early = set(args[6]) & lacks[2]
    late = set(args[6]) - early
    macs = other = 0
    for dims, summed in ((pair, early), (sizes.keys() - early, late)):
        products = math.prod(sizes[d] for d in dims)
        macs, other = (macs + products, other) if summed else (macs, other + products)
    return macs, other


def _weight_norm(args: Sequence[Any], out: Any) -> Count:
    return 0, 3 * args[0].numel() + 2 * args[1].numel()


OPERATORS: dict[Any, Operator] = {
    aten.mm: _mm,
    aten.bmm: _mm,
    aten.mv: _mm,
    **dict.fromkeys((aten.dot, aten.vdot), lambda args, out: (args[0].numel(), 0)),
    aten.addmm: _addmm,
    aten.baddbmm: _addmm,
    aten.addmv: _addmm,
    aten.convolution: _convolution,
    **dict.fromkeys((aten.add, aten.sub, aten.rsub), _add),
    aten.sum: _sum,
    aten.mean: _mean,
    aten._softmax: each(5),
    aten._safe_softmax: each(5),
    aten._log_softmax: each(5),
    aten._softmax_backward_data: each(4),
    aten._log_softmax_backward_data: each(4),
    aten.max_pool2d_with_indices: _max_pool(2),
    aten.max_pool3d_with_indices: _max_pool(3),
    aten.max_pool2d_with_indices_backward: lambda args, out: (0, args[0].numel()),
    aten.max_pool3d_with_indices_backward: lambda args, out: (0, args[0].numel()),
    aten.avg_pool2d: _mean_pool(2),
    aten.avg_pool3d: _mean_pool(3),
    aten.avg_pool2d_backward: _mean_pool_backward(2),
    aten.avg_pool3d_backward: _mean_pool_backward(3),
    aten._adaptive_avg_pool2d: _adaptive_mean(2),
    aten._adaptive_avg_pool3d: _adaptive_mean(3),
    aten._adaptive_avg_pool2d_backward: _adaptive_mean_backward(2),
    aten._adaptive_avg_pool3d_backward: _adaptive_mean_backward(3),
    aten.adaptive_max_pool2d: _adaptive_max(2),
    aten.adaptive_max_pool3d: _adaptive_max(3),
    aten.adaptive_max_pool2d_backward: lambda args, out: (0, args[0].numel()),
    aten.adaptive_max_pool3d_backward: lambda args, out: (0, args[0].numel()),
    aten.native_batch_norm: _batch_norm,
    aten.native_layer_norm: _layer_norm,
    aten.native_group_norm: _group_norm,
    aten.nll_loss_forward: _nll,
    aten.nll_loss2d_forward: _nll,
    aten.nll_loss_backward: _nll_backward,
    aten.nll_loss2d_backward: _nll_backward,
    aten._ctc_loss: _ctc,
    aten._ctc_loss_backward: _ctc_backward,
    aten.mse_loss: lambda args, out: (0, args[0].numel() * (2 + (args[2] != 0))),
    aten.mse_loss_backward: each(3),
    aten.embedding_dense_backward: each_input(1),
    aten.pow: each(1),
    aten.where: lambda args, out: (0, out.numel() if any(t.dim() for t in args[1:]) else 0),
    aten.var: lambda args, out: (0, 4 * args[0].numel() + out.numel()),
    aten.std: lambda args, out: (0, 4 * args[0].numel() + 2 * out.numel()),
    aten.logsumexp: lambda args, out: (0, 4 * args[0].numel() + 2 * out.numel()),
    aten.linalg_vector_norm: _norm,
    aten.norm: _norm,
    aten._trilinear: _trilinear,
    aten._weight_norm_interface: _weight_norm,
    aten._weight_norm_interface_backward: lambda args, out: (0, 5 * (args[0].numel() + args[2].numel())),
    aten.clamp: lambda args, out: (0, out.numel() * sum(bound is not None for bound in args[1:3])),
    aten.elu: lambda args, out: (0, out.numel() * (4 + (args[2] != 1))),
    aten.elu_backward: lambda args, out: (0, out.numel() * (4 + (args[2] != 1))),
    aten.gelu: lambda args, out: (0, out.numel() * (5 if args[1] == "none" else 9)),
    aten.gelu_backward: lambda args, out: (0, out.numel() * (9 if args[2] == "none" else 18)),
    aten.index_add: lambda args, out: (0, args[3].numel()),
    aten.scatter_add: lambda args, out: (0, args[3].numel()),
    aten.glu_backward: each_input(5),
    aten.log_sigmoid_forward: each(7),
    aten.upsample_linear1d: each(2 * 2),
    aten.upsample_bilinear2d: each(2 * 4),
    aten.upsample_trilinear3d: each(2 * 8),
    aten.upsample_bicubic2d: each(2 * 16),
    aten.upsample_linear1d_backward: each_input(2 * 2),
    aten.upsample_bilinear2d_backward: each_input(2 * 4),
    aten.upsample_trilinear3d_backward: each_input(2 * 8),
    aten.upsample_bicubic2d_backward: each_input(2 * 16),
    **dict.fromkeys(
        (aten.upsample_nearest1d_backward, aten.upsample_nearest2d_backward, aten.upsample_nearest3d_backward,
         aten._upsample_nearest_exact1d_backward, aten._upsample_nearest_exact2d_backward,
         aten._upsample_nearest_exact3d_backward, aten.col2im, aten.unfold_backward, aten.max, aten.min,
         aten.amax, aten.amin), each_input(1),
    ),
    aten.lerp: each(3),
    aten.addcmul: each(3),
    aten.addcdiv: each(3),
    **dict.fromkeys(
        (aten.mul, aten.div, aten.neg, aten.exp, aten.log, aten.sqrt,
         aten.rsqrt, aten.reciprocal, aten.erf, aten.abs, aten.sgn, aten.sigmoid, aten.tanh, aten.relu,
         aten.threshold, aten.threshold_backward, aten.maximum, aten.minimum, aten.clamp_min, aten.clamp_max,
         aten.sin, aten.cos, aten.tan, aten.atan, aten.sinh, aten.cosh, aten.exp2, aten.expm1, aten.log2,
         aten.log10, aten.log1p, aten.erfc, aten.sign, aten.floor, aten.ceil, aten.round, aten.trunc,
         aten.frac, aten.cumsum), each(1),
    ),
    **dict.fromkeys((aten.sigmoid_backward, aten.tanh_backward), each(3)),
    **dict.fromkeys((aten.hardtanh, aten.hardtanh_backward, aten.leaky_relu, aten.leaky_relu_backward,
                     aten.silu, aten.hardsigmoid_backward, aten._prelu_kernel, aten.hardshrink,
                     aten.hardshrink_backward, aten.softshrink_backward, aten.glu), each(2)),
    **dict.fromkeys((aten.softplus, aten.softplus_backward, aten.hardsigmoid), each(4)),
    **dict.fromkeys((aten.silu_backward, aten.hardswish, aten.hardswish_backward, aten.celu, aten.mish,
                     aten.log_sigmoid_backward), each(5)),
    aten.softshrink: each(3),
}  # fmt: skip

# Movement, fresh tensors, selection, comparisons, random numbers.
_FREE = """
    _index_put_impl _local_scalar_dense _pack_padded_sequence _pack_padded_sequence_backward
    _pad_packed_sequence _reshape_copy _to_copy _unsafe_index _unsafe_view _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d arange argmax argmin as_strided as_strided_scatter bernoulli
    bitwise_and bitwise_not bitwise_or cat channel_shuffle clone constant_pad_nd contiguous copy copysign
    detach diag_embed diagonal_backward embedding empty empty_like empty_strided eq expand_copy fill flip
    full full_like gather ge gt im2col index index_copy index_put index_select index_select_backward
    isfinite isinf isnan le lift_fresh logical_and logical_not logical_or lt masked_fill masked_scatter
    masked_select max_unpool2d max_unpool3d native_dropout ne new_empty new_empty_strided new_full new_ones
    new_zeros normal one_hot ones ones_like pixel_shuffle pixel_unshuffle rand rand_like randn randn_like
    reflection_pad1d reflection_pad1d_backward reflection_pad2d reflection_pad2d_backward reflection_pad3d
    reflection_pad3d_backward repeat replication_pad1d replication_pad1d_backward replication_pad2d
    replication_pad2d_backward replication_pad3d replication_pad3d_backward resize resolve_conj roll rot90
    scalar_tensor scatter select_backward slice_backward sort split_with_sizes squeeze stack topk transpose
    tril triu unbind uniform unsafe_split unsqueeze upsample_nearest1d upsample_nearest2d upsample_nearest3d
    value_selecting_reduction_backward view_copy zero zeros zeros_like
"""
FREE = frozenset(_FREE.split())


def packet(func: Any) -> Any:
    """Returns the operator without its overload and without the underscore of its in-place form."""
    name = func.overloadpacket.__name__
    base = name.removesuffix("_")
    return getattr(aten, base, func.overloadpacket) if func.namespace == "aten" else func.overloadpacket


def backward_split(func: Any, args: Sequence[Any], out: Any) -> list[tuple[Any, Count]] | None:
    """Returns the gradients that an operator makes at once, each with its own count; None for all other operators."""
    mask = next((a for a in reversed(args) if isinstance(a, list | tuple) and _three_bools(a)), [])
    if func is aten.convolution_backward:
        grad, x, w, transposed = args[0], args[1], args[2], args[7]
        macs = _conv(x.shape, w.shape, grad.shape, transposed)
        counts = [(macs * mask[0], 0), (macs * mask[1], 0), (0, grad.numel() * mask[2])]
        return list(zip(out, counts, strict=True))
    if func is aten.native_batch_norm_backward:
        n, channels, training = args[0].numel(), args[0].shape[1], args[7]
        weights = (mask[1] or mask[2]) and args[2] is not None
        # In training dx needs both sums too; in evaluation mode it only scales.
        dx = 4 * n + 3 * channels + (0 if weights else 5 * n) if training else n + channels
        return [(out[0], (0, dx * mask[0])), (out[1] if mask[1] else out[2], (0, 5 * n * weights))]
    if func in (aten.native_layer_norm_backward, aten.native_group_norm_backward):
        n, rows = args[0].numel(), args[2 if func is aten.native_group_norm_backward else 3].numel()
        affine = args[4 if func is aten.native_group_norm_backward else 5] is not None
        weights = (mask[1] or mask[2]) and affine
        dx = n * (7 + affine + 2 * (not weights)) + 2 * rows
        return [(out[0], (0, dx * mask[0])), (out[1] if mask[1] else out[2], (0, 5 * n * weights))]
    if func is aten._prelu_kernel_backward:
        return [(out[0], (0, 4 * args[0].numel()))]
    return None


def _three_bools(values: Sequence[Any]) -> bool:
    return len(values) == 3 and all(isinstance(v, bool) for v in values)
