"""The operations of a whole run, from counts of one sample, and from samples, epochs, accumulation and ranks.

Takes a request with run.samples and run.epochs, returns JSON-able figures. Costs are polynomials of the length
(constant, linear, and attention's square), so three short counts determine any length exactly. A mixture's
capacity is not a polynomial, so it is counted at each length. Pure arithmetic on counts; imports no torch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypedDict

from hpctrain.errors import UserError
from hpctrain.flops import rules
from hpctrain.flops.known import SHORT, counted
from hpctrain.flops.request import Request, RunPlan
from hpctrain.flops.result import Count

EXA = 10**18


@dataclass(frozen=True)
class RunTotal:
    """Operations of a run. `useful`: of forward and backward passes. `optimizer`: each rank updates all parameters."""

    steps: int
    useful: int
    optimizer: int

    @property
    def exaflops(self) -> float:
        """All operations, in 10¹⁸."""
        return (self.useful + self.optimizer) / EXA


class RunFigures(TypedDict):
    """A run's plan (request.RunPlan), and what it costs. `arithmetic` spells out the total."""

    dataset: str | None
    samples: int
    epochs: float
    lengths: dict[int, float] | None
    batch: int
    accumulate: int
    ranks: int
    expected_exaflops: float | None
    note: str | None
    flops_per_sample: float
    steps: int
    useful_flops: int
    optimizer_flops: int
    exaflops: float
    lower_bound_s: float | None
    arithmetic: str


@dataclass(frozen=True)
class StepBound:
    """The roofline seconds of the passes of a batch on one device, of their products alone, and of an update."""

    passes_s: float
    compute_s: float
    update_s: float


def run_figures(request: Request, count: Count, bound: StepBound | None) -> RunFigures | None:
    """Returns the figures of the run; None if the request does not describe a run. `bound`: of the counted batch.

    Raises UserError if samples or epochs are missing, or lengths do not apply.
    """
    plan, settings = request.settings.run, request.model.settings
    if plan.samples is None and plan.epochs is None:
        return None
    if plan.samples is None or plan.epochs is None:
        missing = "run.samples" if plan.samples is None else "run.epochs"
        raise UserError(missing, "", "is missing: a run has samples and epochs")
    sequences = hasattr(settings, "example_length")
    if plan.lengths and not sequences:
        raise UserError("run.lengths", dict(plan.lengths), f"samples of {request.model.name} have no length")
    lengths = dict(plan.lengths or {settings.example_length if sequences else 1: 1.0})
    shares = {length: Fraction(str(share)) for length, share in lengths.items()}
    of_length = _costs(request, count, sequences)
    whole = sum(shares.values(), Fraction())
    per_sample = sum((of_length(n) * share for n, share in shares.items()), Fraction()) / whole
    total = run_total(
        per_sample,
        optimizer_flops(count, request.settings.optimizer),
        samples=plan.samples,
        epochs=plan.epochs,
        batch=plan.batch,
        accumulate=plan.accumulate,
        ranks=plan.ranks,
    )
    words = ", ".join(f"{float(share / whole):.0%} of length {n}" for n, share in shares.items())
    return {
        "dataset": plan.dataset,
        "samples": plan.samples,
        "epochs": plan.epochs,
        "lengths": lengths if sequences else None,
        "batch": plan.batch,
        "accumulate": plan.accumulate,
        "ranks": plan.ranks,
        "expected_exaflops": plan.expected_exaflops,
        "note": plan.note,
        "flops_per_sample": float(per_sample),
        "steps": total.steps,
        "useful_flops": total.useful,
        "optimizer_flops": total.optimizer,
        "exaflops": total.exaflops,
        "lower_bound_s": _lower_bound_s(plan, request.batch, total.steps, bound)
        if bound and not sequences
        else None,
        "arithmetic": f"{plan.samples:,} x {plan.epochs:g} x {float(per_sample):.6g} FLOPs (2 a MAC, forward and "
        f"backward{f'; {words}' if sequences else ''}) + {total.steps:,} x {plan.ranks} updates x "
        f"{optimizer_flops(count, request.settings.optimizer):.4g}",
    }


def _lower_bound_s(plan: RunPlan, counted: int, steps: int, bound: StepBound) -> float:
    """Returns the roofline seconds of the run: ranks work in parallel, and each updates all parameters once a step.

    A batch larger than the `counted` one reads the weights less often per sample, so only its operations are certain.
    """
    batch_s = bound.passes_s if plan.batch <= counted else bound.compute_s
    return batch_s / counted * (plan.samples or 0) * (plan.epochs or 0) / plan.ranks + steps * bound.update_s


def _costs(request: Request, count: Count, sequences: bool) -> Callable[[int], Fraction]:
    """Returns a function from a length to the FLOPs (forward and backward) of one sample of that length."""

    def at(length: int) -> Fraction:
        settings = dataclasses.replace(request.model.settings, example_length=length)
        return _flops(counted(request.model.name, settings, request.batch), request.batch)

    if not sequences:
        return lambda _: _flops(count, request.batch)
    if request.model.network.mixture is not None:
        return at
    known = [(n, at(n)) for n in SHORT]
    return lambda length: polynomial(known, length)


def _flops(count: Count, batch: int) -> Fraction:
    return Fraction(2 * (count.forward.macs + count.backward.macs), batch)


def polynomial(points: list[tuple[int, Fraction]], at: int) -> Fraction:
    """Returns the value at `at` of the polynomial through the points (Lagrange's form)."""
    value = Fraction()
    for x, y in points:
        for other, _ in points:
            if other != x:
                y *= Fraction(at - other, x - other)
        value += y
    return value


def run_total(
    per_sample: Fraction,
    optimizer: int,
    *,
    samples: int,
    epochs: float,
    batch: int,
    accumulate: int = 1,
    ranks: int = 1,
) -> RunTotal:
    """Returns the totals of a run. The last, smaller step of each epoch counts as a step.

    `per_sample`: operations of forward and backward pass. `optimizer`: operations of one update. `batch`: samples per
    rank and micro-step.
    """
    whole, part = divmod(Fraction(str(epochs)), 1)
    effective = batch * accumulate * ranks
    steps = int(whole) * -(-samples // effective) + math.ceil(samples * part / effective)
    return RunTotal(steps, round(samples * Fraction(str(epochs)) * per_sample), steps * optimizer * ranks)


def optimizer_flops(count: Count, optimizer: Any) -> int:
    """Returns the operations of one update of all trained parameters; vectors decay only if the settings say so."""
    name = optimizer.name
    decay, vectors_too = (
        getattr(optimizer, "weight_decay", 0.0) > 0,
        getattr(optimizer, "decay_norm_and_bias", True),
    )
    return sum(
        size
        * rules.optimizer_ops(
            name,
            momentum=getattr(optimizer, "momentum", 0.0) > 0,
            nesterov=getattr(optimizer, "nesterov", False),
            weight_decay=decay and (vectors_too or dims > 1),
            matrix=dims > 1,
        )
        for size, dims in count.parameter_sizes
    )


def optimizer_elements(count: Count, optimizer: Any) -> int:
    """Returns the elements that one update moves: weight, gradient and state read, weight and state written."""
    states = 2 if optimizer.name in ("adam", "adamw") else int(getattr(optimizer, "momentum", 0.0) > 0)
    return sum(size for size, _ in count.parameter_sizes) * (3 + 2 * states)
