"""The second count: the operators that torch runs, forward and backward, on the meta device.

Takes a module on the meta device and its inputs; runs forward, then autograd's own backward pass, and adds
up each aten operator by the rules of operators.py. Backward operators are assigned to the layer whose forward
call made their autograd node, and to weights or inputs by whose gradients they serve. Forward operators that run again
inside the backward pass (checkpointing) count separately, as recomputation. No rule for a layer is used here.
Side effects: hooks on the module while it runs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import TorchDispatchMode

from hpctrain.flops import ctc
from hpctrain.flops.modules import Where
from hpctrain.flops.operators import FREE, OPERATORS, Count, aten, backward_split, packet

FORWARD, WEIGHTS, INPUTS, RECOMPUTED = "forward", "weight_grad", "input_grad", "recomputed"
WEIGHT, SAMPLE = "weight", "sample"
ZEROS = frozenset({aten.zeros, aten.new_zeros, aten.zeros_like})
# In the backward pass they add up the gradients of what was used, or taken from a tensor, more than once.
JOINS = frozenset({aten.index_add, aten.scatter_add})


@dataclass(frozen=True)
class Origin:
    """The layer that made an autograd node, and whether some or all of its operands are made of weights."""

    layer: str
    has_weight: bool
    weights_only: bool


@dataclass(frozen=True)
class Step:
    """An operator of a backward pass: its operands, and its results, each with its count."""

    layer: str
    operands: Sequence[Tensor]
    parts: Sequence[tuple[Any, Count]]


class Trace(TorchDispatchMode):
    """Sums the operators run while it is active: `operations[layer, pass]` is [MACs, other operations]."""

    def __init__(self, model: nn.Module, inputs: Sequence[Any], where: Where) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.where = where
        self.operations: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        self.unknown: dict[tuple[str, str], int] = defaultdict(int)
        self._roles: dict[int, str] = {}
        self._alive: list[Any] = []  # keeps storages alive, so that no address is reused
        self._numbers: list[int] = []
        self._origins: list[Origin] = []
        self._undecided: dict[int, list[Step]] = defaultdict(list)  # of each node that runs, by its number
        for parameter in model.parameters():
            self._mark(parameter, WEIGHT)
        for tensor in tensors(inputs):
            self._mark(tensor, SAMPLE)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        operator = packet(func)
        out = ctc.result(operator, args)
        out = func(*args, **kwargs) if out is None else out
        operands = list(tensors((*args, *kwargs.values())))
        results = list(tensors(out))
        floating = _floating(results) and _floating(operands)
        if any(t.is_complex() for t in (*operands, *results)) and not (
            func.is_view or operator.__name__ in FREE
        ):
            self.unknown[self.where.name, f"{operator.__name__} of complex numbers"] += 1
            return out
        bound = given(func, args, kwargs)
        node = torch._C._current_autograd_node()
        if torch._C._current_graph_task_id() < 0:
            self._forward(func, operator, bound, out, operands, results, floating)
        elif not floating:
            pass
        elif isinstance(node, BackwardCFunction):  # a backward pass in Python: the first count cannot know it
            if any(self._count(func, operator, bound, out)):
                name = f"autograd Function {node.name().removesuffix('Backward')}"
                self.unknown[self._origin(node).layer, name] += 1
        elif torch.is_grad_enabled():
            self._add(self.where.name, RECOMPUTED, self._count(func, operator, bound, out))
        else:
            self._backward(func, operator, bound, out, operands, node)
        return out

    def _forward(
        self,
        func: Any,
        operator: Any,
        args: Any,
        out: Any,
        operands: list[Tensor],
        results: list[Tensor],
        floating: bool,
    ) -> None:
        # A state that starts at zero belongs to the sample.
        roles = {SAMPLE} if operator in ZEROS else {self._role(t) for t in operands}
        weights_only = SAMPLE not in roles and WEIGHT in roles
        for tensor in results:
            if SAMPLE in roles or WEIGHT in roles:
                self._mark(tensor, WEIGHT if weights_only else SAMPLE)
        # The node of this operator has the latest sequence number.
        number = torch.autograd._get_sequence_nr() - 1  # type: ignore[attr-defined]
        if not self._numbers or self._numbers[-1] < number:
            self._numbers.append(number)
            self._origins.append(Origin(self.where.name, WEIGHT in roles, weights_only))
        if floating:
            self._add(self.where.name, FORWARD, self._count(func, operator, args, out))

    def _backward(
        self, func: Any, operator: Any, args: Any, out: Any, operands: list[Tensor], node: Any
    ) -> None:
        joined = operator in JOINS or (operator is aten.add and len(operands) == 2)
        if joined or (node and node.name() == "ExpandBackward0"):
            return  # sums of gradients of one tensor are not counted
        origin = self._origin(node)
        parts = backward_split(operator, args, out) or [(out, self._count(func, operator, args, out))]
        if origin.has_weight and not origin.weights_only:
            self._undecided[node._sequence_nr()].append(Step(origin.layer, operands, parts))
            return
        for _, count in parts:
            self._add(origin.layer, WEIGHTS if origin.weights_only else INPUTS, count)

    def watch(self, roots: Sequence[Tensor]) -> None:
        """Prepares the backward pass from `roots` (...,).

        A node whose operands are made of weights and of samples says at its end which step served whose gradient.
        """
        waiting = [t.grad_fn for t in roots if t.grad_fn is not None]
        seen = set(waiting)
        while waiting:
            node = waiting.pop()
            origin = self._origin(node)
            if origin.has_weight and not origin.weights_only:
                node.register_hook(partial(self._decide, node))
            for following, _ in node.next_functions:
                if following is not None and following not in seen:
                    seen.add(following)
                    waiting.append(following)

    def _decide(self, node: Any, gradients: Sequence[Tensor | None], _: Any) -> None:
        """Adds the steps of a node that has made its `gradients`: to weights if they serve those of weights alone."""
        serves: dict[int, set[str]] = defaultdict(set)
        for gradient, (following, _) in zip(gradients, node.next_functions, strict=True):
            if gradient is not None and following is not None:
                serves[storage(gradient)].add(WEIGHTS if self._of_weights(following) else INPUTS)
        for step in reversed(self._undecided.pop(node._sequence_nr(), [])):
            ends: set[str] = set()
            for results, count in step.parts:
                served = set().union(*(serves[storage(t)] for t in tensors(results)))
                self._add(step.layer, WEIGHTS if served == {WEIGHTS} else INPUTS, count)
                ends |= served
            for operand in step.operands:
                serves[storage(operand)] |= ends

    def _of_weights(self, node: Any) -> bool:
        """Whether a node takes the gradient of a weight, or of what is made of weights alone."""
        if hasattr(node, "variable"):
            return self._role(node.variable) == WEIGHT
        return self._origin(node).weights_only

    def _origin(self, node: Any) -> Origin:
        """Returns where a node of the backward pass was made."""
        place = bisect_left(self._numbers, node._sequence_nr()) if node is not None else len(self._numbers)
        return self._origins[place] if place < len(self._origins) else Origin(self.where.name, False, False)

    def _count(self, func: Any, operator: Any, args: Any, out: Any) -> Count:
        if operator in OPERATORS:
            return OPERATORS[operator](args, out)
        if not (func.is_view or operator.__name__ in FREE):
            self.unknown[self.where.name, operator.__name__] += 1
        return 0, 0

    def _add(self, layer: str, which: str, count: Count) -> None:
        if any(count):
            cell = self.operations[layer, which]
            cell[0] += count[0]
            cell[1] += count[1]

    def _mark(self, tensor: Tensor, role: str) -> None:
        address = storage(tensor)
        if address not in self._roles:
            self._alive.append(tensor.untyped_storage())
        if self._roles.get(address) != SAMPLE:
            self._roles[address] = role

    def _role(self, tensor: Tensor) -> str | None:
        return self._roles.get(storage(tensor))


def storage(tensor: Tensor) -> int:
    """Returns the address of the storage of a tensor (...,), which its views share; of a sparse one, its own."""
    return int(tensor.untyped_storage()._cdata) if tensor.layout == torch.strided else id(tensor)


def given(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Returns all arguments of an operator in the order of its schema, with the defaults of those not given."""
    later = func._schema.arguments[len(args) :]
    return [*args, *(kwargs.get(argument.name, argument.default_value) for argument in later)]


def tensors(value: Any) -> Iterator[Tensor]:
    """Yields the tensors, of any shapes (...,), in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors(part)


def _floating(values: Sequence[Tensor]) -> bool:
    return any(t.is_floating_point() for t in values)
