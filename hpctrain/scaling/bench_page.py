"""The results of `hpctrain bench`: reads the runs' files into one document, and renders it as text.

Takes finished run directories; reads metrics.jsonl, profile.json and state.json. The document holds seconds, bytes
and operations per second; the text milliseconds and GFLOP/s. No torch.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

from hpctrain.config.data_kinds import Family, family
from hpctrain.config.settings import Config
from hpctrain.report.numbers import binary, seconds
from hpctrain.scaling.measured import straggler_s
from hpctrain.scaling.plan import Kind
from hpctrain.storage.profile import Ceilings, Sum
from hpctrain.storage.records import train_records
from hpctrain.storage.run_dir import RunDir

DATA: Mapping[Kind, str] = {"own": "the experiment's data", "synthetic": "noise"}
PARTS = ("data", "forward", "backward", "communication", "straggler", "optimizer", "rest")
# The loop's parts (training/step_timer.py) under this page's names. A checkpoint is not part of a step.
_PART_OF = {"allreduce": "communication", "other": "rest"}


class Step(TypedDict):
    """One run's step; rates are of all ranks. `peak`: the device's, as in the run's summary."""

    data: Kind
    steps: int
    step_s: float
    samples_per_s: float
    samples_per_s_least: float
    samples_per_s_most: float
    parts_s: dict[str, float]
    exchange_alone_s: float | None
    gflop_per_s: float | None
    mfu: float | None
    roofline_share: float | None
    peak: Mapping[str, object] | None
    tokens_per_s: NotRequired[float]  # of language models


class Allreduce(TypedDict):
    """One size of an allreduce: its median time, its least, and the bytes per second that a ring would move."""

    bytes: int
    s: float
    least_s: float
    bus_bytes_per_s: float


class Machine(TypedDict):
    """The machine's peaks: medians over its ranks."""

    device: str
    threads: int
    flops_per_s: dict[str, float]
    bytes_per_s: float
    allreduce: list[Allreduce]


class Document(TypedDict):
    """All that was measured."""

    model: str
    dataset: str
    precision: str
    ranks: int
    nodes: int
    batch_size: int
    effective_batch: int
    ceilings: Machine
    steps: list[Step]


@dataclass(frozen=True)
class Measured:
    """One run's step and, for the first run only, the machine's peaks."""

    step: Step
    ceilings: Ceilings | None


def read(run: RunDir, kind: Kind) -> Measured:
    """Returns a finished run's figures without its first window."""
    records = train_records(run.metrics_file)[1:]
    profile = run.read_profile()
    steps = sum(r.window_steps for r in records)
    total_s = sum(r.window_s for r in records)
    parts_s = dict.fromkeys(PARTS, 0.0)
    for part in records[0].step_ms:
        if part != "checkpoint":
            spent_s = sum(r.step_ms[part] * r.window_steps for r in records) / steps / 1e3
            parts_s[_PART_OF.get(part, part)] += spent_s
    if profile and profile["ranks"] > 1:
        parts_s["straggler"] = min(parts_s["communication"], straggler_s(profile))
        parts_s["communication"] -= parts_s["straggler"]
    rates = [r.rates.samples_per_s for r in records if r.rates.samples_per_s is not None]
    step: Step = {
        "data": kind,
        "steps": steps,
        "step_s": total_s / steps,
        "samples_per_s": statistics.median(rates),
        "samples_per_s_least": min(rates),
        "samples_per_s_most": max(rates),
        "parts_s": parts_s,
        "exchange_alone_s": statistics.fmean(profile["exchange_s"])
        if profile and profile["exchange_s"]
        else None,
        "gflop_per_s": _median([r.rates.gflop_per_s for r in records]),
        "mfu": _median([r.rates.mfu for r in records]),
        "roofline_share": _median([r.rates.roofline_share for r in records]),
        "peak": (run.read_state().summary or {}).get("device_peak"),
    }
    return Measured(step, profile.get("ceilings") if profile else None)


def _median(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return statistics.median(known) if known else None


def document(config: Config, runs: Sequence[Measured]) -> Document:
    """Returns all figures as one JSON document."""
    first = next(run.ceilings for run in runs if run.ceilings)
    steps = [run.step.copy() for run in runs]
    if family(config.data.name) is Family.TEXT and config.data.sequence_length:
        for step in steps:
            step["tokens_per_s"] = step["samples_per_s"] * config.data.sequence_length
    return {
        "model": config.model.name,
        "dataset": config.data.name,
        "precision": config.precision.name,
        "ranks": config.ranks,
        "nodes": config.resources.nodes,
        "batch_size": config.train.batch_size,
        "effective_batch": config.effective_batch,
        "ceilings": {
            "device": first["device"],
            "threads": first["threads"],
            "flops_per_s": {
                name: statistics.median(rank[name] for rank in first["flops_per_s"])
                for name in first["flops_per_s"][0]
            },
            "bytes_per_s": statistics.median(first["bytes_per_s"]),
            "allreduce": [_sum(one, config.ranks) for one in first["sums"]],
        },
        "steps": steps,
    }


def _sum(measured: Sum, ranks: int) -> Allreduce:
    """Returns the median time of one size n, and the rate at which a ring would move its bytes: 2(p−1)/p n / time."""
    s = statistics.median(measured["s"])
    return {
        "bytes": measured["bytes"],
        "s": s,
        "least_s": min(measured["s"]),
        "bus_bytes_per_s": 2 * (ranks - 1) / ranks * measured["bytes"] / s,
    }


def text(d: Document) -> str:
    """Returns the document as text for people."""
    return "\n".join([*_machine(d), *(_steps(d) if d["steps"] else [])])


def _machine(d: Document) -> list[str]:
    top, ranks = d["ceilings"], d["ranks"]
    threads = top["threads"]
    each = " for each rank, all at once" if ranks > 1 else ""
    products = "  ".join(f"{name} {rate / 1e9:,.1f} GFLOP/s" for name, rate in top["flops_per_s"].items())
    lines = [
        f"{top['device']}: {ranks} rank{'s' * (ranks > 1)}, {threads} CPU thread{'s' * (threads > 1)} per rank",
        f"  matrix products  {products}{each}",
        f"  memory, copies   {top['bytes_per_s'] / 1e9:,.2f} GB/s{each}",
    ]
    for i, one in enumerate(top["allreduce"]):
        name = "allreduce" if i == 0 else ""
        lines.append(
            f"  {name:15}  {binary(one['bytes']):>7}  {seconds(one['s']):>8}  {one['bus_bytes_per_s'] / 1e9:8.3f} GB/s"
        )
    return lines


def _steps(d: Document) -> list[str]:
    steps = d["steps"]
    batch = f"{d['batch_size']} × {d['effective_batch'] // d['batch_size']}"
    title = f"{d['model']} on {d['dataset']}, {d['precision']}, batch {batch}"
    rows: list[tuple[str, list[str]]] = [(title, [DATA[s["data"]] for s in steps])]

    def add(name: str, key: str, form: str) -> None:
        values = [s.get(key) for s in steps]
        if any(value is not None for value in values):
            rows.append((name, ["" if value is None else form.format(value) for value in values]))

    add("samples/s", "samples_per_s", "{:,.1f}")
    rows.append(
        (
            "  least to most",
            [f"{s['samples_per_s_least']:,.1f} to {s['samples_per_s_most']:,.1f}" for s in steps],
        )
    )
    add("tokens/s", "tokens_per_s", "{:,.0f}")
    add("GFLOP/s", "gflop_per_s", "{:,.2f}")
    add("MFU", "mfu", "{:.1%}")
    add("of the roofline", "roofline_share", "{:.1%}")
    rows.append(("step", [f"{1e3 * s['step_s']:,.3f} ms" for s in steps]))
    for part in PARTS:
        if any(s["parts_s"][part] for s in steps):
            rows.append((f"  {part}", [_share(s, part) for s in steps]))
    first = max(len(name) for name, _ in rows)
    widths = [max(len(cells[i]) for _, cells in rows) for i in range(len(steps))]
    return [
        f"{name:{first}}  " + "  ".join(f"{cell:>{w}}" for cell, w in zip(cells, widths, strict=True))
        for name, cells in rows
    ]


def _share(step: Step, part: str) -> str:
    return f"{1e3 * step['parts_s'][part]:,.3f} ms {step['parts_s'][part] / step['step_s']:6.1%}"
