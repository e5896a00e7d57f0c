"""A count's document for people and other programs: rich tables, lines of text, CSV. No torch."""

from __future__ import annotations

import csv
from collections import defaultdict
from typing import TYPE_CHECKING, Literal, TextIO, TypedDict, get_args

from hpctrain.flops.document import Document, LowerBound, MixtureFigures
from hpctrain.flops.runs import RunFigures
from hpctrain.report.numbers import exact, seconds, short

if TYPE_CHECKING:
    from rich.table import Table


Compared = Literal["params", "forward_macs", "forward_flops", "backward_flops", "optimizer_flops"]
COMPARED: tuple[Compared, ...] = get_args(Compared)


class Total(TypedDict):
    """One figure of both documents. `ratio` is b / a; None if a is 0."""

    a: float
    b: float
    ratio: float | None


class TypeSums(TypedDict):
    """All layers of one type."""

    layers: int
    params: int
    forward_macs: float


class ByType(TypedDict):
    """The sums of two documents, by type of layer."""

    a: dict[str, TypeSums]
    b: dict[str, TypeSums]


class Comparison(TypedDict):
    """Two documents side by side."""

    a: Document
    b: Document
    totals: dict[Compared, Total]
    by_type: ByType


def write_csv(document: Document, out: TextIO) -> None:
    """Writes one line per layer, under the document's own keys."""
    rows = document["layers"]
    writer = csv.DictWriter(out, list(rows[0]) if rows else ["name"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def layer_table(document: Document) -> Table:
    """Returns a table of the layers with their totals; `lines` returns the other figures."""
    from rich.table import Table

    bounded = "lower_bound" in document
    table = Table(title=f"{document['model']}, one {document['unit']}", title_justify="left", box=None)
    table.add_column("layer", overflow="fold")
    table.add_column("type")
    columns = ["params", "MACs", "forward", "weights' grad", "inputs' grad", "bytes"]
    for column in columns + ["roofline"] * bounded:
        table.add_column(column, justify="right")
    for row in document["layers"]:
        cells = [short(row["params"]), short(row["forward_macs"]), short(row["forward_flops"])]
        cells += [short(row["weight_grad_flops"]), short(row["input_grad_flops"])]
        cells.append(short(row["read_bytes"] + row["written_bytes"], "B"))
        if bounded:
            cells.append(f"{seconds(row['bound_s'])} {row['bound_by']}")
        mark = "" if row["in_headline"] else " (left out)"
        table.add_row(row["name"] + mark, row["type"], *cells)
    table.add_section()
    totals = [document["params"], document["forward_macs"], document["forward_flops"]]
    totals += [document["weight_grad_flops"], document["input_grad_flops"]]
    moved = sum(row["read_bytes"] + row["written_bytes"] for row in document["layers"])
    bound = [seconds(document["lower_bound"]["passes_s"])] if bounded else []
    table.add_row("total", "", *map(short, totals), short(moved, "B"), *bound, style="bold")
    return table


def lines(document: Document) -> list[str]:
    """Returns the text below the table, line by line."""
    d = document
    rows = [
        "",
        f"convention   {d['convention']}",
        f"unit         {d['unit']}; counted: {d['units']:,} in a batch of {d['batch']}, {d['mode']}",
        f"parameters   {d['params']:,}",
        f"forward      {exact(d['forward_macs'])} MACs = {exact(d['forward_flops'])} FLOPs",
        f"backward     {exact(d['backward_flops'])} FLOPs: weights' gradients {exact(d['weight_grad_flops'])}, "
        f"inputs' {exact(d['input_grad_flops'])}",
        f"optimizer    {d['optimizer_flops']:,} FLOPs per step ({d['optimizer']})",
    ]
    if d["recomputed_flops"]:
        rows.append(f"recomputed   {exact(d['recomputed_flops'])} FLOPs, not among the others")
    whole = d["whole"]
    if (whole["params"], whole["forward_macs"]) != (d["params"], d["forward_macs"]):
        rows.append(
            f"with all     {whole['params']:,} parameters, {exact(whole['forward_macs'])} MACs forward, "
            f"{exact(whole['weight_grad_flops'] + whole['input_grad_flops'])} FLOPs backward"
        )
    others = ", ".join(
        f"{kind} {short(ops['forward_ops'])} + {short(ops['backward_ops'])}"
        for kind, ops in d["by_kind"].items()
    )
    rows.append(f"beside MACs  {others} (forward + backward operations)")
    rows += _mixture(d["mixture"]) if "mixture" in d else []
    rows += _bound(d["lower_bound"]) if "lower_bound" in d else []
    rows += _run(d["run"]) if "run" in d else []
    if d["unknown_operators"]:
        covered = d["covered"]
        rows.append(f"NOT COUNTED  {', '.join(d['unknown_operators'])}")
        rows.append(f"covered      {covered['params_share']:.1%} of the parameters' layers")
    return rows


def _mixture(m: MixtureFigures) -> list[str]:
    return [
        f"experts      {m['mixtures']} x {m['experts']:,}, {m['active_experts']} active per word: "
        f"{m['params_active']:,} of {m['params_total']:,} parameters; capacity {m['capacity_vectors']}, "
        f"gates {short(m['gate_macs'])}MACs, dispatch {short(m['dispatch_bytes'], 'B')} per word",
    ]


def _bound(b: LowerBound) -> list[str]:
    rows = [
        f"roofline     {seconds(b['step_s'])} per step on {b['device']} ({short(b['peak_flops_per_s'], 'FLOP/s')}, "
        f"{short(b['bytes_per_s'], 'B/s')}; {b['device_source']}); of direct algorithms",
    ]
    if "mfu" in b:
        rows.append(
            f"measured     {seconds(b['measured_step_s'])} per step: MFU {b['mfu']:.1%}, "
            f"{b['roofline_share']:.1%} of the roofline"
        )
    return rows


def _run(run: RunFigures) -> list[str]:
    rows = [
        f"run          {run['samples']:,} samples x {run['epochs']:g} epochs "
        f"({run['dataset'] or 'data set not named'}), {run['steps']:,} steps on {run['ranks']} ranks",
        f"run total    {run['exaflops']:.4g} exaFLOPs"
        + (f" (the document says {run['expected_exaflops']:g})" if run["expected_exaflops"] else "")
        + (f"; {seconds(run['lower_bound_s'])} at the roofline" if run["lower_bound_s"] else ""),
        f"arithmetic   {run['arithmetic']}",
    ]
    return rows + ([f"note         {' '.join(run['note'].split())}"] if run["note"] else [])


def compared(a: Document, b: Document) -> Comparison:
    """Returns two documents side by side: totals, and MACs and parameters by type of layer."""
    totals: dict[Compared, Total] = {
        key: {"a": a[key], "b": b[key], "ratio": b[key] / a[key] if a[key] else None} for key in COMPARED
    }
    return {"a": a, "b": b, "totals": totals, "by_type": {"a": _by_type(a), "b": _by_type(b)}}


def _by_type(document: Document) -> dict[str, TypeSums]:
    by_type: dict[str, TypeSums] = defaultdict(lambda: {"layers": 0, "params": 0, "forward_macs": 0})
    for row in document["layers"]:
        sums = by_type[row["type"]]
        sums["layers"] += 1
        sums["params"] += row["params"]
        sums["forward_macs"] += row["forward_macs"]
    return dict(by_type)


def comparison_table(comparison: Comparison) -> Table:
    """Returns a table of two documents side by side."""
    from rich.table import Table

    a, b = comparison["a"], comparison["b"]
    table = Table(box=None)
    for column in ("", f"{a['model']}, one {a['unit']}", f"{b['model']}, one {b['unit']}", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    for key, row in comparison["totals"].items():
        ratio = f"{row['ratio']:.3f}" if row["ratio"] is not None else "-"
        table.add_row(key.replace("_", " "), exact(row["a"]), exact(row["b"]), ratio)
    table.add_section()
    types = comparison["by_type"]
    for kind in dict.fromkeys([*types["a"], *types["b"]]):
        sides = (types["a"].get(kind), types["b"].get(kind))
        cells = [f"{s['layers']} layers, {short(s['forward_macs'])} MACs" if s else "-" for s in sides]
        table.add_row(kind, *cells, "")
    return table
