"""What a whole run costs, of a request with run.samples and run.epochs: one count a length, then totals.py.

Takes a request, returns JSON-able figures. Costs are polynomials of the length (constant, linear, and attention's
square), so three short counts give any length exactly; a mixture's capacity is none, and is counted as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from hpctrain.errors import UserError
from hpctrain.flops.known import SHORT, counted
from hpctrain.flops.request import Request
from hpctrain.flops.result import Count
from hpctrain.flops.totals import optimizer_flops, run_total


def run_figures(request: Request, found: Count, step_bound_s: float | None) -> dict[str, Any] | None:
    """None if the request names no run."""
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
    of_length = _costs(request, found, sequences)
    whole = sum(shares.values(), Fraction())
    per_sample = sum((of_length(n) * share for n, share in shares.items()), Fraction()) / whole
    total = run_total(
        per_sample,
        optimizer_flops(found, request.settings.optimizer),
        samples=plan.samples,
        epochs=plan.epochs,
        batch=plan.batch,
        accumulate=plan.accumulate,
        ranks=plan.ranks,
    )
    words = ", ".join(f"{float(share / whole):.0%} of length {n}" for n, share in shares.items())
    return {
        **dataclasses.asdict(plan),
        "lengths": lengths if sequences else None,
        "flops_per_sample": float(per_sample),
        "steps": total.steps,
        "useful_flops": total.useful,
        "optimizer_flops": total.optimizer,
        "exaflops": total.exaflops,
        # Ranks work side by side.
        "lower_bound_s": step_bound_s * plan.samples * plan.epochs / (request.batch * plan.ranks)
        if step_bound_s and not sequences
        else None,
        "arithmetic": f"{plan.samples:,} x {plan.epochs:g} x {float(per_sample):.6g} FLOPs (2 a MAC, forward and "
        f"backward{f'; {words}' if sequences else ''}) + {total.steps:,} x {plan.ranks} updates x "
        f"{optimizer_flops(found, request.settings.optimizer):.4g}",
    }


def _costs(request: Request, found: Count, sequences: bool) -> Callable[[int], Fraction]:
    """FLOPs of forward and backward pass for one sample of a length."""

    def at(length: int) -> Fraction:
        settings = dataclasses.replace(request.model.settings, example_length=length)
        return _flops(counted(request.model.name, settings, request.batch), request.batch)

    if not sequences:
        return lambda _: _flops(found, request.batch)
    if hasattr(request.model.settings, "capacity_factor"):
        return at
    known = [(n, at(n)) for n in SHORT]
    return lambda length: polynomial(known, length)


def _flops(found: Count, batch: int) -> Fraction:
    return Fraction(2 * (found.forward.macs + found.backward.macs), batch)


def polynomial(points: list[tuple[int, Fraction]], at: int) -> Fraction:
    """The value at `at` of the polynomial through the points (Lagrange's form)."""
    value = Fraction()
    for x, y in points:
        for other, _ in points:
            if other != x:
                y *= Fraction(at - other, x - other)
        value += y
    return value
