"""Closed forms for what changes the size of pictures: interpolation, windows as columns. As in calls.py."""

from __future__ import annotations

from hpctrain.flops import rules
from hpctrain.flops.calls import Call, NoRule, moved, work
from hpctrain.flops.layers import adaptive_mean_pool
from hpctrain.flops.rules import Cost, Work


def interpolate(call: Call) -> Work:
    """Returns the work of a change of size: of a weighted sum per output, or of means over areas."""
    x, mode = call.args[0], call.get(3, "mode", "nearest")
    if call.get(6, "antialias", False):
        raise NoRule("interpolate with antialias")
    if mode == "area":
        return adaptive_mean_pool(call, x.dim() - 2)
    forward, backward = rules.interpolation(x.numel(), call.result.numel(), x.dim() - 2, mode)
    return work(call, "elementwise", forward, [(x, backward)])


def unfold(call: Call) -> Work:
    """Returns the work of copying all windows: none; backward each entry of a window is added to its element."""
    x, n = call.args[0], call.result.numel()
    return work(call, "memory", moved(call), [(x, Cost(other=n, read=n, written=x.numel()))])


def fold(call: Call) -> Work:
    """Returns the work of adding up windows: an addition per entry; backward they are copied."""
    x = call.args[0]
    grads = [(x, Cost(read=call.result.numel(), written=x.numel()))]
    return work(call, "elementwise", moved(call, other=x.numel()), grads)
