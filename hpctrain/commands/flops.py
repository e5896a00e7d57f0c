"""`hpctrain flops`: floating-point operations of a training step, per layer and per run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hpctrain import hardware
from hpctrain.commands.flags import Parser
from hpctrain.commands.say import say, wide_console
from hpctrain.flops import render
from hpctrain.flops.answer import answer, changed
from hpctrain.flops.render import Comparison
from hpctrain.hardware import Device
from hpctrain.report.numbers import short

ABOUT = "Count the operations of a network's training step, layer by layer, and of a whole run."
MORE = """settings: model=resnet50 model.version=v1 input=3x224x224 batch=256 mode=training|inference
convention=flops|macs|all|no_padding|resnet|torchvision|lenet1998|shazeer2017 optimizer=sgd dtype=bf16
device='NVIDIA H100' measured_step_s=0.1 run.samples=1281167 run.epochs=90
scenario=resnet152_imagenet|deep_speech2_english|gnmt_wmt14
any torch.nn.Module: model=custom model.target=package.module:Class input=3x32x32
"""


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code. Raises UserError."""
    args = _parser().take(argv)
    plot = Path(args.plot) if args.plot else None
    if plot is not None:
        from hpctrain.flops import plot as pictures

        pictures.check(plot)
    measured = hardware.measure() if args.measure else None
    if measured is not None and not args.words:
        return _show_device(measured, args.json)
    made = answer(args.words, measured, args.allow_unknown)
    if plot is not None:
        pictures.draw(made, plot)
        say(f"wrote {plot}")
    if args.diff:
        other = answer(changed(args.words, args.diff), measured, args.allow_unknown)
        _show_comparison(render.compared(made, other), args.json)
    elif args.json:
        print(json.dumps(made))
    elif args.csv:
        render.write_csv(made, sys.stdout)
    else:
        _show(render.layer_table(made), render.lines(made))
    return 0


def _show(table: object, lines: list[str]) -> None:
    console = wide_console()
    console.print(table)
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)


def _show_comparison(comparison: Comparison, as_json: bool) -> None:
    if as_json:
        print(json.dumps(comparison))
        return
    sides = (comparison["a"], comparison["b"])
    _show(render.comparison_table(comparison), [f"{side['model']}: {side['convention']}" for side in sides])


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
        print(f"{precision:8} {short(rate, 'FLOP/s')}")
    print(f"memory   {short(device.bytes_per_s, 'B/s')}\n{device.name}: {device.source}")
    return 0


def _parser() -> Parser:
    parser = Parser("flops", ABOUT, "[SETTINGS]", MORE)
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="one JSON document on stdout")
    output.add_argument("--csv", action="store_true", help="one line per layer")
    parser.add_argument(
        "--plot", metavar="FILE", help="bars per layer, and the roofline of a device (png, svg, pdf)"
    )
    parser.add_argument(
        "--diff",
        action="append",
        metavar="SETTING",
        help="compare with the same network with SETTING changed",
    )
    parser.add_argument(
        "--measure", action="store_true", help="measure this machine's peaks, for the roofline"
    )
    parser.add_argument(
        "--allow-unknown", action="store_true", help="leave out, and list, operators without a rule"
    )
    return parser
