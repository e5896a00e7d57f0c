"""profile.json: what one training step is made of, as training/profile.py measures it. Seconds and bytes. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NotRequired

from annotated_types import Ge, Gt, MinLen
from typing_extensions import TypedDict

from hpctrain.errors import Damaged
from hpctrain.storage.json_files import Count, Number, load

Positive = Annotated[Count, Gt(0)]
Measured = Annotated[Number, Ge(0)]


class Arrival(TypedDict):
    """The gradient of one parameter, and when it is ready, counted from the start of the backward pass."""

    name: str
    bytes: Count
    ready_s: Measured


class Computing(TypedDict):
    """The step without exchange at one batch size; `step_s` has a list per rank, which shows how unequal they are.

    `cpu_s` sums over all cores; the rest of their time is free for others. Profiles of version 0.1.0 may lack it.
    """

    data_s: Measured
    forward_s: Measured
    backward_s: Measured
    cpu_s: NotRequired[Measured]
    step_s: Annotated[list[Annotated[list[Measured], MinLen(1)]], MinLen(1)]


class Sum(TypedDict):
    """One size of an allreduce: the seconds of each try, on the slowest rank."""

    bytes: Positive
    s: Annotated[list[Measured], MinLen(1)]


class Ceilings(TypedDict):
    """The machine's peaks (training/machine_peaks.py). Lists have one value per rank; `sums` is for all ranks."""

    device: str
    threads: int
    flops_per_s: Annotated[list[dict[str, Measured]], MinLen(1)]
    bytes_per_s: Annotated[list[Measured], MinLen(1)]
    sums: list[Sum]


class Profile(TypedDict):
    """The whole file. `computing` has the batch sizes as text; `exchange_s` and `sums` are empty for one rank."""

    ranks: Positive
    ranks_per_node: Positive
    batch_size: Positive
    device: str
    cores: Positive
    gradients: list[Arrival]
    computing: dict[str, Computing]
    optimizer_s: Measured
    exchange_s: list[Measured]
    sums: list[Sum]
    ceilings: NotRequired[Ceilings]


def read(path: Path) -> Profile | None:
    """Returns the profile in a file; None if there is no such file. Raises Damaged, also if its parts do not fit."""
    profile = load(path, Profile)
    if profile is not None and (why := _misfit(profile)):
        raise Damaged(path, why)
    return profile


def _misfit(profile: Profile) -> str | None:
    """What readers rely on, and no type says."""
    if not all(size.isdecimal() and int(size) for size in profile["computing"]):
        return "computing: its keys must be batch sizes"
    if str(profile["batch_size"]) not in profile["computing"]:
        return f"computing: batch size {profile['batch_size']} is missing"
    for size, part in profile["computing"].items():
        if len({len(steps) for steps in part["step_s"]}) > 1:
            return f"computing.{size}.step_s: ranks have different numbers of steps"
    if profile["ranks"] > 1 and not (profile["exchange_s"] and len(profile["sums"]) > 1):
        return f"exchange_s and sums: too few values for {profile['ranks']} ranks"
    return None
