"""Slurm's description of itself, line by line."""

import pytest

from hpctrain.scheduler import site
from hpctrain.scheduler.site import Association, Node, Partition


def test_the_configuration_is_keys_and_values():
    text = (
        "Configuration data as of 2026-11-24T06:09:00\n"
        "AccountingStorageType   = accounting_storage/slurmdbd\n"
        "KillWait                = 5 sec \n"
        "Prolog                  = (null)\n"
        "SlurmctldParameters     = a=1,b\n"
        "\nSlurmctld(primary) at node1 is UP\n"
    )
    assert site.parse_config(text) == {
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "KillWait": "5 sec",
        "Prolog": "(null)",
        "SlurmctldParameters": "a=1,b",
    }


def test_partitions():
    text = (
        "PartitionName=low Default=YES GraceTime=30 MaxNodes=2 MaxTime=01:30:59 PreemptMode=REQUEUE State=UP "
        "TotalNodes=4\n"
        "\n"
        "PartitionName=high Default=NO GraceTime=0 MaxNodes=UNLIMITED MaxTime=UNLIMITED PreemptMode=OFF State=DOWN "
        "TotalNodes=4\n"
        "PartitionName=wide MaxNodes=8 TotalNodes=4\n"
        "PartitionName=bare\n"
    )
    assert site.parse_partitions(text) == [
        Partition("low", True, True, 90, 2, 30, True),
        Partition("high", False, False, None, 4, 0, False),
        Partition("wide", False, False, None, 4, 0, False),
        Partition("bare", False, False, None, 0, 0, False),
    ]


def test_a_partition_is_never_too_large_for_its_nodes():
    assert site.parse_partitions("PartitionName=p TotalNodes=40000\n")[0].max_nodes == 40_000


def test_nodes():
    text = (
        "NodeName=node1 CPUTot=64 Gres=gpu:a100:4(S:0-1),gpu:2,nic:1 RealMemory=512000 State=MIXED+PLANNED "
        "Partitions=low,high\n"
        "\n"
        "NodeName=node2 CPUTot=4 Gres=(null) RealMemory=1000 State=DOWN* Partitions=low\n"
        "NodeName=node3\n"
    )
    assert site.parse_nodes(text) == [
        Node("node1", ("low", "high"), "MIXED", 64, 512_000, 6),
        Node("node2", ("low",), "DOWN", 4, 1000, 0),
        Node("node3", ("",), "", 0, 0, 0),
    ]


def test_kinds_of_mpi():
    kinds = "MPI plugin types are...\n\tnone\n\tcray_shasta\n    pmix\n"
    text = f"{kinds}specific pmix plugin versions available: pmix_v3,pmix_v4\n"
    assert site.parse_mpi(text) == ["none", "cray_shasta", "pmix", "pmix_v3", "pmix_v4"]
    assert site.parse_mpi("MPI plugin types are...\n\tnone\n") == ["none"]


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["none", "pmi2", "pmix"], "pmix"),
        (["pmi2", "cray_shasta"], "cray_shasta"),
        (["none", "pmi2"], "pmi2"),
        (["none", "pmix_v4"], None),
    ],
)
def test_the_kind_that_most_mpis_understand_is_chosen(names, chosen):
    assert site.choose_mpi(names) == chosen


def test_associations():
    assert site.parse_associations("devel|low|10\nother||\nshort\n") == [
        Association("devel", "low", 10),
        Association("other", "", None),
        Association("short", "", None),
    ]


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("00:00:59", 0), ("00:10:00", 10), ("02:03:04", 123), ("1-00:00:00", 1440), ("2-03:04:05", 3064),
        ("UNLIMITED", None), ("", None), ("10", None), ("1-00:00:00x", None),
    ],
)  # fmt: skip
def test_times_are_minutes_rounded_down(text, minutes):
    assert site.minutes(text) == minutes
