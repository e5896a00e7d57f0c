"""The first count: a closed form for each call of torch that a module makes.

Takes a module on the meta device and its inputs, returns the work of every layer. The module runs forward
once, without data; each call of torch's interface is looked up in `RULES`. Nothing is differentiated: the cost
of the backward pass follows from the formulas, from which tensors need a gradient, and from which calls the result
depends on.
Side effects: hooks on the module while it runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hpctrain.flops import attention, calls, layers, resampling, rules, vectors
from hpctrain.flops.calls import SAMPLE, Call, NoRule, elementwise
from hpctrain.flops.ctc import CtcOnMeta
from hpctrain.flops.einsum import einsum
from hpctrain.flops.modules import Where
from hpctrain.flops.rules import Cost, Work

Rule = Callable[[Call], Work]

RULES: dict[str, Rule] = {
    "linear": calls.linear,
    "matmul": calls.matmul,
    "mm": calls.matmul,
    "bmm": calls.matmul,
    "mv": calls.matmul,
    "dot": calls.matmul,
    "vdot": calls.matmul,
    "rmatmul": calls.rmatmul,
    "addmm": calls.addmm,
    "baddbmm": calls.addmm,
    "einsum": einsum,
    "tensordot": calls.tensordot,
    "inner": calls.inner,
    "outer": elementwise(1, 1, 1),
    "bilinear": calls.bilinear,
    "embedding": calls.embedding,
    "scaled_dot_product_attention": attention.dot_product_attention,
    "multi_head_attention_forward": attention.multi_head_attention,
    "batch_norm": layers.batch_norm,
    "instance_norm": layers.instance_norm,
    "layer_norm": layers.layer_norm,
    "group_norm": layers.group_norm,
    "rms_norm": vectors.rms_norm,
    "weight_norm": vectors.weight_norm,
    "local_response_norm": layers.local_response_norm,
    "normalize": vectors.normalize,
    "norm": vectors.norm,
    "linalg_norm": partial(vectors.norm, order="ord", matrices=True),
    "linalg_vector_norm": partial(vectors.norm, order="ord"),
    "cosine_similarity": vectors.cosine_similarity,
    "pairwise_distance": vectors.pairwise_distance,
    "interpolate": resampling.interpolate,
    "unfold": resampling.unfold,
    "fold": resampling.fold,
    "cross_entropy": layers.cross_entropy,
    "nll_loss": layers.nll_loss,
    "ctc_loss": layers.ctc_loss,
    "mse_loss": calls.squared_error,
    **{cell: partial(layers.recurrent, cell=cell) for cell in rules.CELLS},
    **{f"{cell}_cell": partial(layers.recurrent_cell, cell=cell) for cell in rules.CELLS},
    **{name: elementwise(*charges, kind="activation") for name, charges in rules.ACTIVATIONS.items()},
    **{name: elementwise(*charges) for name, charges in rules.FUNCTIONS.items()},
    "absolute": elementwise(*rules.FUNCTIONS["abs"]),
    "negative": elementwise(*rules.FUNCTIONS["neg"]),
    "gelu": calls.gelu,
    "dropout": calls.dropout,
    **dict.fromkeys(
        ("dropout1d", "dropout2d", "dropout3d", "feature_dropout"), partial(calls.dropout, channels=True)
    ),
    # Operations per element: of the result, of the first operand's gradient, of the second's.
    "add": calls.addition(0, 0),
    "radd": calls.addition(0, 0),
    **dict.fromkeys(("sub", "subtract"), calls.addition(0, 1)),
    "rsub": calls.reversed_operands(calls.addition(0, 1)),
    **dict.fromkeys(("mul", "multiply", "rmul"), elementwise(1, 1, 1)),
    **dict.fromkeys(("div", "divide", "true_divide", "truediv"), elementwise(1, 1, 4)),
    "rdiv": elementwise(2, 4),  # a reciprocal and a product
    "prelu": calls.prelu,
    "pow": calls.power,
    "rpow": calls.rpower,
    "clamp": calls.clamp,
    "clip": calls.clamp,
    "clamp_min": elementwise(1, 1),
    "clamp_max": elementwise(1, 1),
    "maximum": elementwise(1, 2, 2),
    "minimum": elementwise(1, 2, 2),
    "max": calls.largest,
    "min": calls.largest,
    "amax": calls.shared_largest,
    "amin": calls.shared_largest,
    "where": calls.where,
    "var": calls.variance,
    "std": partial(calls.variance, root=True),
    "cumsum": calls.cumulative_sum,
    "logsumexp": calls.log_sum_exp,
    **dict.fromkeys(("repeat", "tile"), calls.repeat),
    "index_add": calls.added_at,
    "scatter_add": calls.added_at,
    "sum": calls.reduction(divide=False),
    "mean": calls.reduction(divide=True),
    **dict.fromkeys(
        ("cat", "concat", "concatenate", "stack", "pad", "index_select", "gather", "clone", "contiguous",
         "masked_fill", "flip", "roll", "index_copy", "scatter", "repeat_interleave", "take_along_dim",
         "hstack", "vstack", "dstack", "rot90", "diag", "diag_embed", "masked_scatter"),
        calls.copying,
    ),
}  # fmt: skip
for _dims in (1, 2, 3):
    RULES |= {
        f"conv{_dims}d": calls.convolution,
        f"conv_transpose{_dims}d": partial(calls.convolution, transposed=True),
        f"max_pool{_dims}d": partial(layers.max_pool, dims=_dims),
        f"avg_pool{_dims}d": partial(layers.mean_pool, dims=_dims),
        f"adaptive_avg_pool{_dims}d": partial(layers.adaptive_mean_pool, dims=_dims),
        f"adaptive_max_pool{_dims}d": partial(layers.adaptive_max_pool, dims=_dims),
        f"max_unpool{_dims}d": calls.copying,
    }

# Views, sizes, new tensors, comparisons, integers: no floating-point arithmetic.
_FREE = """
    all and any arange argmax argmin argsort as_strided as_tensor bernoulli bfloat16 bincount bool
    broadcast_tensors broadcast_to can_cast chunk conj copy cpu cuda data_ptr detach device
    diagonal dim double dropout_ dtype element_size empty empty_like eq equal expand expand_as eye fill
    flatten float full full_like ge get get_device getitem gt half hash invert is_complex is_contiguous
    is_floating_point is_tensor isfinite isnan item iter le len logical_and logical_not logical_or lt
    manual_seed movedim narrow ne nelement new_empty new_full new_ones new_tensor new_zeros nonzero
    normal not numel one_hot ones ones_like or pack_padded_sequence pad_packed_sequence permute
    promote_types rand rand_like randint randn randn_like real register_hook requires_grad reshape reshape_as
    resolve_conj resolve_neg result_type retain_grad select set setitem shape size slice sort split squeeze storage
    stride swapaxes t tensor tensor_split to tolist topk transpose tril triu type type_as unbind
    unflatten uniform unsqueeze untyped_storage view view_as view_as_complex view_as_real imag
    swapdims moveaxis ravel meshgrid adjoint zero zeros zeros_like pixel_shuffle pixel_unshuffle channel_shuffle
"""
FREE = frozenset(_FREE.split())

# A state that starts at zero belongs to the sample, although its arguments do not show it.
ZEROS = frozenset({"zeros", "new_zeros", "zeros_like"})


class Walk(TorchFunctionMode):
    """Collects the work of the calls made while it is active, by layer (`where`)."""

    def __init__(self, where: Where) -> None:
        super().__init__()
        self.where = where
        self.work: dict[str, list[Work]] = defaultdict(list)
        self.unknown: dict[tuple[str, str], int] = defaultdict(int)
        # Work with a backward pass: its layer, its place in the layer's list, its results, their versions and nodes.
        self._differentiated: list[tuple[str, int, list[tuple[Tensor, int, Any]]]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func)).strip("_")
        with CtcOnMeta() if name == "ctc_loss" else nullcontext():
            out = func(*args, **kwargs)
        if not args and "input" in kwargs:  # torch's name of the first operand
            args, kwargs = (kwargs["input"],), {k: v for k, v in kwargs.items() if k != "input"}
        call = Call(args, kwargs, out)
        name = name.removesuffix("_with_indices").lstrip("_")
        made_of = SAMPLE if name in ZEROS else call.role
        for result in calls.tensors(out, integers=True):
            if not isinstance(result, nn.Parameter):
                result.flops_role = made_of  # type: ignore[attr-defined]
        if torch._C._functorch.peek_interpreter_stack() is not None:  # its tensors hide a dimension
            self.unknown[self.where.name, f"{name} inside of vmap"] += 1
        elif name not in FREE and any(
            t.is_complex() for t in calls.tensors((args, kwargs, out), integers=True)
        ):
            self.unknown[self.where.name, f"{name} of complex numbers"] += 1
        elif _floating((args, kwargs)) and _floating(out) and name not in FREE:
            self._count(name, call)
        return out

    def _count(self, name: str, call: Call) -> None:
        try:
            if name not in RULES:
                raise NoRule(name)
            work = RULES[name](call)
        except NoRule as missing:
            self.unknown[self.where.name, str(missing)] += 1
            return
        done = self.work[self.where.name]
        done.append(work)
        results = [(t, t._version, t.grad_fn) for t in calls.tensors(call.out) if t.grad_fn is not None]
        in_place = next(calls.tensors(call.args), None) is call.out
        if work.backward != Cost() and results and not in_place:
            self._differentiated.append((self.where.name, len(done) - 1, results))

    def end(self, out: Any) -> None:
        """Takes the backward pass off the calls on which `out`, the end of the forward pass, does not depend.

        A result that was changed in place afterwards may have another node: its call keeps its backward pass.
        """
        waiting = [t.grad_fn for t in calls.tensors(out) if t.grad_fn is not None]
        reached = set(waiting)
        while waiting:
            for node, _ in waiting.pop().next_functions:
                if node is not None and node not in reached:
                    reached.add(node)
                    waiting.append(node)
        for layer, place, results in self._differentiated:
            if all(t._version == version and node not in reached for t, version, node in results):
                work = self.work[layer][place]
                self.work[layer][place] = Work(work.kind, work.forward)


def _floating(value: Any) -> bool:
    return next(calls.tensors(value), None) is not None
