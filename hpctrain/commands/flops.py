"""`hpctrain flops` and `hpctrain models`. Each takes its arguments, prints, gives an exit code.

Known networks are answered without importing torch; `--measure`, other settings and other modules need it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from hpctrain import hardware
from hpctrain.errors import UserError, nearest
from hpctrain.flops import render
from hpctrain.flops.document import document, headline
from hpctrain.flops.known import counted
from hpctrain.flops.request import Request, request
from hpctrain.flops.result import Count
from hpctrain.flops.runs import run_figures
from hpctrain.hardware import Device


def flops(argv: list[str]) -> int:
    """`hpctrain flops [--json | --csv] [--plot FILE] [--diff SETTING]... [SETTINGS]`."""
    args = _parser().parse_args(argv)
    wrong = next((word for word in args.settings if word.startswith("-")), None)
    if wrong is not None:
        raise UserError(wrong, "", "unknown flag; hpctrain flops --help lists them")
    plot = Path(args.plot) if args.plot else None
    if plot is not None:
        from hpctrain.flops import plot as pictures

        pictures.check(plot)
    measured = hardware.measure() if args.measure else None
    if measured is not None and not args.settings:
        return _show_device(measured, args.json)
    made = _document(args.settings, measured, args.allow_unknown)
    if plot is not None:
        pictures.draw(made, plot)
        print(f"hpctrain: wrote {plot}", file=sys.stderr)
    if args.diff:
        other = _document(_changed(args.settings, args.diff), measured, args.allow_unknown)
        comparison = render.compared(made, other)
        print(json.dumps(comparison)) if args.json else render.print_comparison(comparison)
    elif args.json:
        print(json.dumps(made))
    elif args.csv:
        render.write_csv(made, sys.stdout)
    else:
        render.print_document(made)
    return 0


def models(argv: list[str]) -> int:
    """`hpctrain models [--json]`: every network at its default settings."""
    from hpctrain.models.settings import SETTINGS

    parser = argparse.ArgumentParser(
        prog="hpctrain models", description="every network at its default settings"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    args = parser.parse_args(argv)
    keys = ("model", "params", "forward_macs", "unit")
    asked = [request([f"model={name}"]) for name in SETTINGS]
    tops = [headline(one, _count(one, False)) for one in asked]
    rows = [{key: top[key] for key in keys} for top in tops]
    if args.json:
        print(json.dumps(rows))
        return 0
    from rich.table import Table

    table = Table(box=None)
    for column in ("model", "parameters", "MACs forward", "for one"):
        table.add_column(column, justify="right" if column in ("parameters", "MACs forward") else "left")
    for row in rows:
        table.add_row(row["model"], f"{row['params']:,}", f"{row['forward_macs']:,}", row["unit"])
    render.wide_console().print(table)
    return 0


def _document(
    overrides: list[str], measured: Device | None = None, allow_unknown: bool = False
) -> dict[str, Any]:
    asked = request(overrides)
    device = measured or _device(asked)
    found = _count(asked, allow_unknown)
    made = document(asked, found, device)
    run = run_figures(asked, found, made.get("lower_bound", {}).get("step_s"))
    return made if run is None else made | {"run": run}


def _count(asked: Request, allow_unknown: bool) -> Count:
    model, training = asked.model, asked.settings.mode == "training"
    if model.target is None:
        return counted(model.name, model.settings, asked.batch, training=training)
    from hpctrain.flops.count import count
    from hpctrain.models import build, example_inputs

    network = build(model.name, model.settings, device="meta", target=model.target)
    inputs = example_inputs(model.name, model.settings, asked.batch, input_shape=asked.input_shape)
    return count(network, inputs, training=training, allow_unknown=allow_unknown)


def _device(asked: Request) -> Device | None:
    name = asked.settings.device
    if name is None:
        if asked.settings.measured_step_s:
            raise UserError(
                "measured_step_s", asked.settings.measured_step_s, "needs device=NAME or --measure"
            )
        return None
    found = hardware.find(name)
    if found is None:
        names = [device.name for _, device in hardware.devices()]
        raise UserError("device", name, f"unknown device: known are {', '.join(names)}", nearest(name, names))
    return found


def _changed(settings: list[str], changes: list[str]) -> list[str]:
    """`settings` with `changes` in their place; another model starts from its own settings."""
    keys = {change.partition("=")[0] for change in changes}
    dropped = ("model.", "input=") if "model" in keys else ()
    kept = [s for s in settings if s.partition("=")[0] not in keys and not s.startswith(dropped)]
    return kept + changes


def _show_device(device: Device, as_json: bool) -> int:
    figures = {
        "device": device.name,
        "flops_per_s": dict(device.flops),
        "bytes_per_s": device.bytes_per_s,
        "source": device.source,
    }
    if as_json:
        print(json.dumps(figures))
        return 0
    for precision, rate in device.flops.items():
        print(f"{precision:8} {render.short(rate, 'FLOP/s')}")
    print(f"memory   {render.short(device.bytes_per_s, 'B/s')}\n{device.name}: {device.source}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hpctrain flops",
        description="Count the operations of a network's training step, layer by layer, and of a whole run.",
        epilog="settings: model=resnet50 model.version=v1 input=3x224x224 batch=256 mode=training|inference "
        "convention=flops|macs|all|no_padding|resnet|torchvision|lenet1998|shazeer2017 optimizer=sgd "
        "dtype=bf16 device='NVIDIA H100' measured_step_s=0.1 run.samples=1281167 run.epochs=90 "
        "scenario=resnet152_imagenet|deep_speech2_english|gnmt_wmt14; any torch.nn.Module: model=custom "
        "model.target=package.module:Class input=3x32x32",
    )
    parser.add_argument("settings", nargs="*", metavar="SETTING", help="Hydra overrides of conf/flops.yaml")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="one JSON document on stdout")
    output.add_argument("--csv", action="store_true", help="a line a layer")
    parser.add_argument(
        "--plot", metavar="FILE", help="bars a layer, and the roofline of a device (png, svg, pdf)"
    )
    parser.add_argument(
        "--diff", action="append", metavar="SETTING", help="compare with the same, so changed"
    )
    parser.add_argument("--measure", action="store_true", help="measure this machine's peaks; bound by them")
    parser.add_argument(
        "--allow-unknown", action="store_true", help="leave out, and list, operators without a rule"
    )
    return parser
