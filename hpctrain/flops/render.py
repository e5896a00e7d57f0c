"""A count's document for people and other programs: rich tables, lines of text, CSV. Takes dictionaries; no torch."""

from __future__ import annotations

import csv
from collections import defaultdict
from typing import TYPE_CHECKING, Any, TextIO

from hpctrain.report.numbers import exact, seconds, short

if TYPE_CHECKING:
    from rich.table import Table


def write_csv(document: dict[str, Any], out: TextIO) -> None:
    """Writes one line per layer, under the document's own keys."""
    rows = document["layers"]
    writer = csv.DictWriter(out, list(rows[0]) if rows else ["name"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def layer_table(document: dict[str, Any]) -> Table:
    """Returns the layers with their totals as a table; `lines` says the rest."""
    from rich.table import Table

    bounded = "lower_bound" in document
    table = Table(title=f"{document['model']}, one {document['unit']}", title_justify="left", box=None)
    table.add_column("layer", overflow="fold")
    table.add_column("type")
    columns = ["params", "MACs", "forward", "weights' grad", "inputs' grad", "bytes"]
    for column in columns + ["bound"] * bounded:
        table.add_column(column, justify="right")
    for row in document["layers"]:
        cells = [short(row[key]) for key in ("params", "forward_macs", "forward_flops")]
        cells += [short(row["weight_grad_flops"]), short(row["input_grad_flops"])]
        cells.append(short(row["read_bytes"] + row["written_bytes"], "B"))
        if bounded:
            cells.append(f"{seconds(row['bound_s'])} {row['bound_by']}")
        mark = "" if row["in_headline"] else " (left out)"
        table.add_row(row["name"] + mark, row["type"], *cells)
    table.add_section()
    totals = [document[k] for k in ("params", "forward_macs", "forward_flops")]
    totals += [document["weight_grad_flops"], document["input_grad_flops"]]
    moved = sum(row["read_bytes"] + row["written_bytes"] for row in document["layers"])
    bound = [seconds(document["lower_bound"]["passes_s"])] if bounded else []
    table.add_row("total", "", *map(short, totals), short(moved, "B"), *bound, style="bold")
    return table


def lines(document: dict[str, Any]) -> list[str]:
    """Returns the lines below the table."""
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


def _mixture(m: dict[str, Any]) -> list[str]:
    return [
        f"experts      {m['mixtures']} x {m['experts']:,}, {m['active_experts']} active per word: "
        f"{m['params_active']:,} of {m['params_total']:,} parameters; capacity {m['capacity_vectors']}, "
        f"gates {short(m['gate_macs'])}MACs, dispatch {short(m['dispatch_bytes'], 'B')} per word",
    ]


def _bound(b: dict[str, Any]) -> list[str]:
    rows = [
        f"lower bound  {seconds(b['step_s'])} per step on {b['device']} ({short(b['peak_flops_per_s'], 'FLOP/s')}, "
        f"{short(b['bytes_per_s'], 'B/s')}; {b['device_source']})",
    ]
    if "mfu" in b:
        rows.append(
            f"measured     {seconds(b['measured_step_s'])} per step: MFU {b['mfu']:.1%}, "
            f"{b['roofline_share']:.1%} of the roofline"
        )
    return rows


def _run(run: dict[str, Any]) -> list[str]:
    rows = [
        f"run          {run['samples']:,} samples x {run['epochs']:g} epochs "
        f"({run['dataset'] or 'data set not named'}), {run['steps']:,} steps on {run['ranks']} ranks",
        f"run total    {run['exaflops']:.4g} exaFLOPs"
        + (f" (the document says {run['expected_exaflops']:g})" if run["expected_exaflops"] else "")
        + (f"; {seconds(run['lower_bound_s'])} at least" if run.get("lower_bound_s") else ""),
        f"arithmetic   {run['arithmetic']}",
    ]
    return rows + ([f"note         {' '.join(run['note'].split())}"] if run["note"] else [])


def compared(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Returns two documents side by side: totals, and MACs and parameters by type of layer."""
    keys = ("params", "forward_macs", "forward_flops", "backward_flops", "optimizer_flops")
    totals = {key: {"a": a[key], "b": b[key], "ratio": b[key] / a[key] if a[key] else None} for key in keys}
    return {"a": a, "b": b, "totals": totals, "by_type": {"a": _by_type(a), "b": _by_type(b)}}


def _by_type(document: dict[str, Any]) -> dict[str, dict[str, float]]:
    sums: dict[str, dict[str, float]] = defaultdict(lambda: {"layers": 0, "params": 0, "forward_macs": 0})
    for row in document["layers"]:
        for key in ("params", "forward_macs"):
            sums[row["type"]][key] += row[key]
        sums[row["type"]]["layers"] += 1
    return dict(sums)


def comparison_table(comparison: dict[str, Any]) -> Table:
    """Returns the two documents of `compared` side by side."""
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
        cells = []
        for side in ("a", "b"):
            sums = types[side].get(kind)
            cells.append(f"{sums['layers']} layers, {short(sums['forward_macs'])} MACs" if sums else "-")
        table.add_row(kind, *cells, "")
    return table
