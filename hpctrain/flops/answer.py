"""Answers to `hpctrain flops`: counts the network that the command line describes, and returns a document.

Takes overrides (`model=resnet50 batch=256`). Known networks are answered without torch; other settings and other
modules need it. The only side effect is the cache of counts.
"""

from __future__ import annotations

from typing import TypedDict

from hpctrain import hardware
from hpctrain.errors import UserError, nearest
from hpctrain.flops.document import Document, document, headline
from hpctrain.flops.known import counted
from hpctrain.flops.request import Request, request
from hpctrain.flops.result import Count
from hpctrain.flops.runs import StepBound, run_figures
from hpctrain.hardware import Device
from hpctrain.models.settings import NETWORKS


class NetworkRow(TypedDict):
    """A network's parameters, and its MACs for one unit."""

    model: str
    params: int
    forward_macs: float
    unit: str


def networks() -> list[NetworkRow]:
    """Returns the headline figures of every network at its default settings."""
    asked = [request([f"model={name}"]) for name in NETWORKS]
    tops = [headline(one, _count(one, False))[0] for one in asked]
    return [
        {"model": t["model"], "params": t["params"], "forward_macs": t["forward_macs"], "unit": t["unit"]}
        for t in tops
    ]


def answer(overrides: list[str], measured: Device | None = None, allow_unknown: bool = False) -> Document:
    """Returns the document for these overrides. Raises UserError, also for an operator without a rule.

    `measured`: the measured peaks of this machine, used instead of the device in the settings.
    """
    asked = request(overrides)
    device = measured or _device(asked)
    count = _count(asked, allow_unknown)
    made = document(asked, count, device)
    bound = None
    if (least := made.get("lower_bound")) is not None:
        bound = StepBound(least["passes_s"], least["compute_s"], least.get("optimizer_s", 0.0))
    run = run_figures(asked, count, bound)
    if run is not None:
        made["run"] = run
    return made


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
    device = hardware.find(name)
    if device is None:
        names = [each.name for _, each in hardware.devices()]
        raise UserError("device", name, f"unknown device: known are {', '.join(names)}", nearest(name, names))
    return device


def changed(settings: list[str], changes: list[str]) -> list[str]:
    """Returns `settings` with `changes` applied. If the model changes, settings of the old model are dropped."""
    keys = {change.partition("=")[0] for change in changes}
    dropped = ("model.", "input=") if "model" in keys else ()
    kept = [s for s in settings if s.partition("=")[0] not in keys and not s.startswith(dropped)]
    return kept + changes
