"""Conventions by name: what a figure counts, as papers and tools define it.

Takes layers' costs, returns one number in the convention's unit. Pure; imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from hpctrain.errors import choose
from hpctrain.flops.result import Layer
from hpctrain.flops.rules import Cost
from hpctrain.models.settings_sequence import ATTENTION_AND_GATES

OTHER = "bias, activations, normalisation, pooling, loss and other elementwise arithmetic"


@dataclass(frozen=True)
class Convention:
    """What counts: a MAC as `mac` operations, and, if true, `other` arithmetic and MACs on `padding` zeros."""

    name: str
    says: str
    source: str
    mac: int = 1
    other: bool = False
    padding: bool = True
    connections: bool = False
    without: str | None = None  # layers left out, a regular expression

    @property
    def left_out(self) -> str:
        """The parts that the figure leaves out, in words."""
        parts = [] if self.other or self.connections else [OTHER]
        if not self.padding:
            parts.append("MACs on padding")
        if self.without:
            parts.append("attention and gates")
        return ", ".join(parts)

    def of(self, cost: Cost) -> int:
        """Returns the cost as one number in this convention."""
        macs = cost.macs if self.padding else cost.macs - cost.padding_macs
        return self.mac * macs + (cost.arithmetic if self.other else 0)


CONVENTIONS = {
    c.name: c
    for c in (
        Convention("flops", "2 operations a MAC, padding taps in", "the usual one of MFU", mac=2),
        Convention("macs", "MACs, padding taps in", "fvcore, thop, ptflops (there called FLOPs)"),
        Convention("all", "2 operations a MAC and all other arithmetic", "rules.py", mac=2, other=True),
        Convention("no_padding", "2 operations a MAC, padding taps out", "what must be computed", 2, False, False),
        Convention(
            "resnet", "MACs; the paper calls them FLOPs (multiply-adds)", "He et al. 2016, section 3.3, Table 1"
        ),
        Convention("torchvision", "MACs; listed as GFLOPS (`_ops`)", "torchvision, weights' metadata"),
        Convention(
            "lenet1998",
            "connections: inputs and bias of every unit, trainable or not",
            "LeCun et al. 1998, section II.B",
            connections=True,
        ),
        Convention(
            "shazeer2017",
            "MACs without attention and gates: operations a time step",
            "Shazeer et al. 2017, Tables 2-4",
            without=ATTENTION_AND_GATES,
        ),
    )
}  # fmt: skip


def find(name: str) -> Convention:
    """Returns the convention called `name`. Raises UserError if there is none."""
    if name not in CONVENTIONS:
        raise choose("convention", name, CONVENTIONS)
    return CONVENTIONS[name]


def included(layers: Iterable[Layer], without: str | None) -> list[Layer]:
    """Returns the layers whose name does not match `without`."""
    return [layer for layer in layers if not (without and re.search(without, layer.name))]


def connections(layer: Layer) -> int:
    """Returns the number of inputs of all units of a layer: weights times positions, biases, windows of subsampling.

    A radial basis unit is connected to each of its inputs.
    """
    if layer.type == "RadialBasis":
        return layer.work[0].forward.written
    windows = sum(w.forward.other - w.forward.written for w in layer.work if w.kind == "pooling")
    return windows + sum(w.forward.macs + w.forward.bias for w in layer.work)
