"""What a Slurm cluster is, from its own words: pure functions from command output to values.

Takes the output of scontrol, srun and sacctmgr as text, returns dataclasses. Times are in minutes or seconds
as named, memory in MB; None stands for "no limit".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


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
    """`gpus` counts generic resources named gpu, of whatever type."""

    name: str
    partitions: tuple[str, ...]
    state: str
    cpus: int
    memory_mb: int
    gpus: int


@dataclass(frozen=True)
class Association:
    """What one account lets the user do; None: no limit, or not said."""

    account: str
    partition: str
    max_submit: int | None


def parse_config(text: str) -> dict[str, str]:
    """`scontrol show config`."""
    return dict(re.findall(r"(?m)^(\w+)\s*= (.*?)\s*$", text))


def parse_partitions(text: str) -> list[Partition]:
    """`scontrol --oneliner show partition`."""
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
    """`scontrol --oneliner show node`."""
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
    """`srun --mpi=list`: one a line, and Slurm's versions of pmix in a line of their own."""
    names = [line.strip() for line in text.splitlines() if re.fullmatch(r"\s+[\w-]+", line)]
    return names + [
        name for found in re.findall(r"versions available: (.*)", text) for name in found.split(",")
    ]


def parse_associations(text: str) -> list[Association]:
    """`sacctmgr --noheader --parsable2 show assoc format=account,partition,maxsubmit`."""
    found = []
    for line in text.splitlines():
        account, partition, submit = (*line.split("|"), "", "")[:3]
        found.append(Association(account, partition, _count(submit)))
    return found


def minutes(text: str) -> int | None:
    """Slurm's [days-]hours:minutes:seconds, rounded down."""
    parts = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if not parts:
        return None
    days, hours, mins, _ = (int(part or 0) for part in parts.groups())
    return (days * 24 + hours) * 60 + mins


def choose_mpi(names: Sequence[str]) -> str | None:
    """The flavour that most MPIs understand."""
    return next((name for name in ("pmix", "cray_shasta", "pmi2") if name in names), None)


def _count(text: str) -> int | None:
    return int(text) if text.isdigit() else None
