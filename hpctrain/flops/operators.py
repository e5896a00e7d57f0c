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


OPERATORS: dict[Any, Operator] = {
    aten.mm: _mm,
    aten.bmm: _mm,
    aten.mv: _mm,
    aten.dot: lambda args, out: (args[0].numel(), 0),
    aten.addmm: _addmm,
    aten.baddbmm: _addmm,
    aten.addmv: _addmm,
    aten.convolution: _convolution,
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
    aten.mse_loss: each_input(3),
    aten.mse_loss_backward: each(3),
    aten.embedding_dense_backward: each_input(1),
    aten.pow: each(1),
    aten.where: lambda args, out: (0, out.numel() if any(t.dim() for t in args[1:]) else 0),
    aten.var: lambda args, out: (0, 4 * args[0].numel() + out.numel()),
    aten.lerp: each(3),
    aten.addcmul: each(3),
    aten.addcdiv: each(3),
    **dict.fromkeys(
        (aten.add, aten.sub, aten.rsub, aten.mul, aten.div, aten.neg, aten.exp, aten.log, aten.sqrt,
         aten.rsqrt, aten.reciprocal, aten.erf, aten.abs, aten.sgn, aten.sigmoid, aten.tanh, aten.relu,
         aten.threshold_backward, aten.maximum, aten.minimum, aten.clamp_min), each(1),
    ),
    **dict.fromkeys((aten.sigmoid_backward, aten.tanh_backward), each(3)),
    **dict.fromkeys((aten.hardtanh, aten.hardtanh_backward, aten.leaky_relu, aten.leaky_relu_backward,
                     aten.silu, aten.clamp, aten.hardsigmoid_backward), each(2)),
    **dict.fromkeys((aten.elu, aten.elu_backward, aten.softplus, aten.softplus_backward,
                     aten.hardsigmoid), each(4)),
    **dict.fromkeys((aten.gelu, aten.silu_backward, aten.hardswish, aten.hardswish_backward), each(5)),
    aten.gelu_backward: each(9),
    aten._prelu_kernel: each(2),
}  # fmt: skip

# Movement, fresh tensors, selection, random numbers.
_FREE = """
    _index_put_impl _local_scalar_dense _pack_padded_sequence _pack_padded_sequence_backward
    _pad_packed_sequence _reshape_copy _to_copy _unsafe_index _unsafe_view amax amin arange argmax
    argmin as_strided_scatter bernoulli cat clone constant_pad_nd contiguous copy copysign detach
    embedding empty empty_like empty_strided eq expand_copy fill flip full full_like gather ge gt index
    index_add index_copy index_put index_select index_select_backward isfinite le lift_fresh logical_and
    logical_not logical_or lt masked_fill masked_select max min native_dropout ne new_empty
    new_empty_strided new_full new_ones new_zeros normal one_hot ones ones_like rand rand_like randn randn_like
    reflection_pad1d reflection_pad1d_backward reflection_pad2d reflection_pad2d_backward repeat
    replication_pad2d replication_pad2d_backward resize resolve_conj roll scalar_tensor scatter
    scatter_add select_backward slice_backward sort split_with_sizes squeeze stack topk transpose tril
    triu unbind unfold_backward uniform unsafe_split unsqueeze value_selecting_reduction_backward
    view_copy zero zeros zeros_like
"""
FREE = frozenset(_FREE.split())


def packet(func: Any) -> Any:
    """Returns the operator without its overload and without the underscore of its in-place form."""
    name = func.overloadpacket.__name__
    base = name.removesuffix("_")
    return getattr(aten, base, func.overloadpacket) if func.namespace == "aten" else func.overloadpacket


def backward_split(func: Any, args: Sequence[Any], out: Any) -> tuple[Count, Count] | None:
    """Returns (weights, input) of an operator that makes several gradients at once; None for all others."""
    mask = next((a for a in reversed(args) if isinstance(a, list | tuple) and _three_bools(a)), [])
    if func is aten.convolution_backward:
        grad, x, w, transposed = args[0], args[1], args[2], args[7]
        macs = _conv(x.shape, w.shape, grad.shape, transposed)
        return (macs * mask[1], grad.numel() * mask[2]), (macs * mask[0], 0)
    if func is aten.native_batch_norm_backward:
        n, channels, training = args[0].numel(), args[0].shape[1], args[7]
        weights = (mask[1] or mask[2]) and args[2] is not None
        # In training dx needs both sums too; in evaluation mode it only scales.
        dx = 4 * n + 3 * channels + (0 if weights else 5 * n) if training else n + channels
        return (0, 5 * n * weights), (0, dx * mask[0])
    if func in (aten.native_layer_norm_backward, aten.native_group_norm_backward):
        n, rows = args[0].numel(), args[2 if func is aten.native_group_norm_backward else 3].numel()
        affine = args[4 if func is aten.native_group_norm_backward else 5] is not None
        weights = (mask[1] or mask[2]) and affine
        return (0, 5 * n * weights), (0, (n * (7 + affine + 2 * (not weights)) + 2 * rows) * mask[0])
    if func is aten._prelu_kernel_backward:
        return (0, 0), (0, 4 * args[0].numel())
    return None


def _three_bools(values: Sequence[Any]) -> bool:
    return len(values) == 3 and all(isinstance(v, bool) for v in values)
