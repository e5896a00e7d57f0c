"""Both counts of a module's training step, compared with each other.

Takes any torch.nn.Module on any device and example inputs; returns the work of each layer. Works on a copy on the
meta device, without data: the module, its gradients and torch's global state do not change.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hpctrain.errors import RunFailed, UserError, said
from hpctrain.flops.calls import SAMPLE
from hpctrain.flops.modules import ROOT, Where
from hpctrain.flops.result import LOSS, Count, Layer
from hpctrain.flops.rules import Cost
from hpctrain.flops.trace import FORWARD, INPUTS, RECOMPUTED, WEIGHTS, Trace, tensors
from hpctrain.flops.walk import Walk
from hpctrain.storage.run_state import Reason

Loss = Callable[[Any], Tensor]
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def count(
    model: nn.Module,
    inputs: Sequence[Any],
    *,
    loss: Loss | None = None,
    training: bool | None = None,
    allow_unknown: bool = False,
    check: bool = True,
) -> Count:
    """Returns the work of forward and backward pass over `inputs`, counted twice.

    `loss` turns the module's result into a scalar; without it the backward pass starts at the outputs. With
    `training` None the module keeps its mode; `check` False leaves out the second count. Raises UserError for
    inputs that do not fit, for a module that needs data, and for an operator or hook without a rule (unless
    `allow_unknown`), RunFailed if the two counts differ.
    """
    moved = tuple(_to_meta(value) for value in inputs)
    try:
        copied = on_meta(model)
        if training is not None:
            copied.train(training)
        with torch.enable_grad(), _usual_algorithms():
            walk = _walk(copied, moved, loss)
            trace = _trace(copied, moved, loss) if check else None
    except Exception as error:  # the user's own code may raise anything
        shapes = ", ".join("x".join(map(str, t.shape)) for t in tensors(moved))
        raise UserError(
            "input", shapes, f"does not pass through the model without data: {said(error)}"
        ) from error
    unknown = _hooks(model) | dict(walk.unknown) | (dict(trace.unknown) if trace else {})
    if unknown and not allow_unknown:
        (layer, name), _ = next(iter(unknown.items()))
        raise UserError("operator", name, f"has no rule (in {layer}); --allow-unknown counts the rest")
    if trace and not unknown:
        compare(walk, trace)
    recomputed = (
        [sum(c[i] for (_, p), c in trace.operations.items() if p == RECOMPUTED) for i in (0, 1)]
        if trace
        else [0, 0]
    )
    sizes = tuple((p.numel(), p.dim()) for p in copied.parameters() if p.requires_grad)
    total = sum(p.numel() for p in copied.parameters())
    return Count(tuple(_layers(copied, walk)), total, recomputed[0], recomputed[1], unknown, sizes)


@contextmanager
def _usual_algorithms() -> Iterator[None]:
    """Torch takes other operators for deterministic results, and has none for some layers: they are no other work."""
    asked = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(asked, warn_only=warn_only)


def on_meta(model: nn.Module) -> nn.Module:
    """Returns a copy of `model` whose tensors have shapes but no data, with no hooks but torch's own."""
    model = getattr(model, "_orig_mod", model)  # torch.compile's wrapper
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    attributes = [value for module in model.modules() for value in vars(module).values()]
    for tensor in (*model.buffers(), *filter(torch.is_tensor, attributes)):
        memo.setdefault(id(tensor), torch.empty_like(tensor, device="meta"))
    copied: nn.Module = copy.deepcopy(model, memo)
    for module in copied.modules():
        for kind in _HOOKS:
            hooks = getattr(module, kind)
            for key in [key for key, hook in hooks.items() if not _is_torch_s(hook)]:
                del hooks[key]
    return copied


def _hooks(model: nn.Module) -> dict[tuple[str, str], int]:
    """Returns the user's hooks by layer: they may compute anything, and must not run on tensors without data."""
    found = [
        (name or ROOT, f"hook {getattr(hook, '__qualname__', type(hook).__qualname__)}")
        for name, module in model.named_modules()
        for kind in _HOOKS
        for hook in getattr(module, kind).values()
        if not _is_torch_s(hook)
    ]
    return dict(Counter(found))


def _is_torch_s(hook: Any) -> bool:
    """Whether torch itself made the hook, as for spectral norm or pruning: then it runs on tensors without data."""
    module = getattr(hook, "__module__", None) or type(hook).__module__
    return module.partition(".")[0] == "torch"


def _to_meta(value: Any) -> Any:
    """Returns tensors without data; tensors that hold lengths keep it, because shapes depend on them."""
    if isinstance(value, Tensor):
        keep = not value.is_floating_point() and value.dim() <= 1 and not value.is_meta
        return value if keep else value.detach().to("meta").requires_grad_(value.requires_grad)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_to_meta(part) for part in value))
    if isinstance(value, list | tuple):
        return type(value)(_to_meta(part) for part in value)
    return value


def _walk(model: nn.Module, inputs: tuple[Any, ...], loss: Loss | None) -> Walk:
    for tensor in tensors(inputs):
        tensor.flops_role = SAMPLE  # type: ignore[attr-defined]
    with Where(model) as where:
        walk = Walk(where)
        with walk:
            out = model(*inputs)
            if loss is not None:
                where.enter(LOSS)
                out = loss(out)
        walk.end(out)
    return walk


def _trace(model: nn.Module, inputs: tuple[Any, ...], loss: Loss | None) -> Trace:
    with Where(model) as where:
        trace = Trace(model, inputs, where)
        with trace:
            out = model(*inputs)
            if loss is not None:
                where.enter(LOSS)
                out = loss(out)
        roots = [t for t in tensors(out) if t.requires_grad]
        if roots:
            trace.watch(roots)
            with trace:
                torch.autograd.backward(roots, [torch.empty_like(t) for t in roots])
    return trace


def compare(walk: Walk, trace: Trace) -> None:
    """Raises RunFailed with the first layer, pass and figure on which the two counts differ."""
    layers = dict.fromkeys([*walk.work, *(layer for layer, _ in trace.operations)])
    for layer in layers:
        for which in (FORWARD, WEIGHTS, INPUTS):
            cost = sum((getattr(work, which) for work in walk.work.get(layer, ())), Cost())
            closed, traced = (cost.macs, cost.arithmetic), tuple(trace.operations.get((layer, which), (0, 0)))
            if closed != traced:
                raise RunFailed(
                    Reason.COUNT_DIFFERS,
                    f"layer {layer}, {which}: closed form {closed[0]} MACs and {closed[1]} other operations, "
                    f"trace {traced[0]} and {traced[1]}",
                )


def _layers(model: nn.Module, walk: Walk) -> Iterator[Layer]:
    modules = dict(model.named_modules())
    seen: set[int] = set()
    for name, work in walk.work.items():
        module = modules.get(name, model if name != LOSS else None)
        own = [] if module is None else [p for p in module.parameters(recurse=False) if id(p) not in seen]
        seen.update(id(p) for p in own)
        yield Layer(
            name, type(module).__name__ if module else "loss", sum(p.numel() for p in own), tuple(work)
        )
