"""What a Slurm cluster says about itself: pure functions from command output to values.

Takes the output of scontrol, srun and sacctmgr as text, returns dataclasses. Times are in minutes or seconds as named,
memory in MB; None means "no limit".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hpctrain.scheduler.answers import parse_duration


@dataclass(frozen=True)
class Partition:
    """One partition as scontrol shows it. Times are in minutes."""

    name: str
    up: bool
    default: bool
    max_time_min: int | None
    max_nodes: int
    grace_s: int
    preempted: bool


@dataclass(frozen=True)
class Node:
    """One node as scontrol shows it. `gpus` counts generic resources named gpu, of any type."""

    name: str
    partitions: tuple[str, ...]
    state: str
    cpus: int
    memory_mb: int
    gpus: int


@dataclass(frozen=True)
class Association:
    """What one account allows the user. `max_submit` is None if there is no limit, or if it is not said."""

    account: str
    partition: str
    max_submit: int | None


def parse_config(text: str) -> dict[str, str]:
    """Returns the values in the output of `scontrol show config`, by name."""
    return dict(re.findall(r"(?m)^(\w+)\s*= (.*?)\s*$", text))


def parse_partitions(text: str) -> list[Partition]:
    """Returns the partitions in the output of `scontrol --oneliner show partition`."""
    partitions = []
    for line in text.splitlines():
        fields = dict(re.findall(r"(\w+)=(\S*)", line))
        if "PartitionName" in fields:
            most = fields.get("MaxNodes", "UNLIMITED")
            partitions.append(
                Partition(
                    fields["PartitionName"],
                    fields.get("State") == "UP",
                    fields.get("Default") == "YES",
                    minutes(fields.get("MaxTime", "UNLIMITED")),
                    min(int(fields.get("TotalNodes", 0)), int(most) if most.isdigit() else 10**9),
                    int(fields.get("GraceTime", 0)),
                    fields.get("PreemptMode", "OFF") != "OFF",
                )
            )
    return partitions


def parse_nodes(text: str) -> list[Node]:
    """Returns the nodes in the output of `scontrol --oneliner show node`."""
    nodes = []
    for line in text.splitlines():
        fields = dict(re.findall(r"(\w+)=(\S*)", line))
        if "NodeName" in fields:
            gpus = re.findall(r"\bgpu(?::[^:,(]+)?:(\d+)", fields.get("Gres", ""))
            nodes.append(
                Node(
                    fields["NodeName"],
                    tuple(fields.get("Partitions", "").split(",")),
                    fields.get("State", "").split("+")[0].rstrip("*"),
                    int(fields.get("CPUTot", 0)),
                    int(fields.get("RealMemory", 0)),
                    sum(map(int, gpus)),
                )
            )
    return nodes


def parse_mpi(text: str) -> list[str]:
    """Returns the names in the output of `srun --mpi=list`: one per line, and the versions of pmix in one line."""
    names = [line.strip() for line in text.splitlines() if re.fullmatch(r"\s+[\w-]+", line)]
    return names + [
        name for versions in re.findall(r"versions available: (.*)", text) for name in versions.split(",")
    ]


def parse_associations(text: str) -> list[Association]:
    """Returns what `sacctmgr --noheader --parsable2 show assoc format=account,partition,maxsubmit` lists."""
    associations = []
    for line in text.splitlines():
        account, partition, submit = (*line.split("|"), "", "")[:3]
        associations.append(Association(account, partition, _count(submit)))
    return associations


def minutes(text: str) -> int | None:
    """Returns the minutes of one of Slurm's durations, rounded down; None for UNLIMITED."""
    seconds = parse_duration(text)
    return None if seconds is None else int(seconds // 60)


def choose_mpi(names: Sequence[str]) -> str | None:
    """Returns the MPI type that most MPI libraries understand; None if Slurm has none of those."""
    return next((name for name in ("pmix", "cray_shasta", "pmi2") if name in names), None)


def _count(text: str) -> int | None:
    return int(text) if text.isdigit() else None
