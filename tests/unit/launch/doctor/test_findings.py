"""The doctor's judgement: Slurm's answers, as a real one gave them, beside what a preset says."""

import dataclasses
import json

import pytest
import yaml

from hpctrain import cli
from hpctrain.config import compose
from hpctrain.launch.doctor import findings
from hpctrain.scheduler import site

CONFIG = """Configuration data as of 2026-11-24T06:09:00
AccountingStorageType   = accounting_storage/slurmdbd
ClusterName             = default
JobRequeue              = 1
KillWait                = 5 sec
MaxArraySize            = 1001
MaxJobCount             = 10000
PreemptMode             = REQUEUE
PreemptType             = preempt/partition_prio
SLURM_VERSION           = 22.05.8
"""
PARTITIONS = (
    "PartitionName=low AllowGroups=ALL Default=YES GraceTime=0 MaxNodes=UNLIMITED MaxTime=01:00:00 Nodes=node[1-4] "
    "PreemptMode=REQUEUE State=UP TotalCPUs=16 TotalNodes=4\n"
    "PartitionName=high Default=NO GraceTime=30 MaxNodes=2 MaxTime=1-12:00:00 PreemptMode=OFF State=DOWN TotalNodes=4\n"
)
NODES = "".join(
    f"NodeName=node{i} CPUTot=4 Gres=gpu:a100:{gpus}(S:0-1) RealMemory=16000 State={state} Partitions=low,high\n"
    for i, gpus, state in ((1, 4, "IDLE"), (2, 2, "DOWN*+DRAIN"))
)
MPI = "MPI plugin types are...\n\tpmix\n\tnone\n\tpmi2\nspecific pmix plugin versions available: pmix_v3,pmix_v4\n"


def found(**changes):
    partitions = site.parse_partitions(PARTITIONS)
    whole = findings.Site(
        site.parse_config(CONFIG), partitions[0], site.parse_nodes(NODES), site.parse_mpi(MPI),
        site.parse_associations("devel||10\n"),
    )  # fmt: skip
    return dataclasses.replace(whole, **changes)


def judged(*overrides, **changes):
    config = compose.load(["lenet_digits", "cluster=devcluster", "cluster.gpus_per_node=2", *overrides])
    return {f.what: f for f in findings.judge(config, found(**changes))}


def test_slurm_s_words_are_read():
    low, high = site.parse_partitions(PARTITIONS)
    assert (low.max_time_min, low.max_nodes, low.grace_s, low.preempted, low.up) == (60, 4, 0, True, True)
    assert (high.max_time_min, high.max_nodes, high.grace_s, high.preempted, high.up) == (
        2160,
        2,
        30,
        False,
        False,
    )
    assert [(n.gpus, n.state) for n in site.parse_nodes(NODES)] == [(4, "IDLE"), (2, "DOWN")]
    assert site.parse_mpi(MPI) == ["pmix", "none", "pmi2", "pmix_v3", "pmix_v4"]
    assert site.minutes("UNLIMITED") is None


def test_what_fits_is_ok():
    assert all(f.ok for f in judged().values())


@pytest.mark.parametrize(
    ("override", "what", "advice"),
    [
        ("cluster.gpus_per_node=4", "nodes", "set cluster.gpus_per_node=2"),
        ("cluster.max_time_min=90", "partition", "set cluster.max_time_min=60"),
        ("cluster.mpi=cray_shasta", "MPI", "set cluster.mpi=pmix"),
        ("cluster.account=other", "accounting", "set cluster.account to devel"),
        ("cluster.needs=[qos]", "accounting", "give cluster.qos=NAME"),
    ],
)
def test_what_does_not_fit_comes_with_what_to_do(override, what, advice):
    given = judged(override)
    assert [f.what for f in given.values() if not f.ok] == [what]
    assert advice in given[what].advice


def test_without_the_partition_accounting_or_a_node():
    assert not judged(partition=None, nodes=[])["partition"].ok
    assert judged(config=site.parse_config(CONFIG.replace("slurmdbd", "none")))["accounting"].ok
    assert not judged(associations=None)["accounting"].ok
    assert not judged(nodes=site.parse_nodes(NODES)[1:])["nodes"].ok


def test_the_preset_it_writes_is_one():
    config = compose.load(["lenet_digits", "cluster=devcluster"])
    written = yaml.safe_load(findings.preset("here", config, found()))
    assert (written["partition"], written["gpus_per_node"], written["account"]) == ("low", 2, "devel")
    assert (written["max_time_min"], written["max_nodes"], written["mpi"]) == (60, 4, "pmix")
    base = yaml.safe_load((compose.conf_dir() / "cluster_base.yaml").read_text())
    assert written.keys() <= base.keys()


def test_names_of_presets_are_checked(capsys):
    for name in ("devcluster", "../evil", ""):
        assert cli.main(["doctor", "cluster=devcluster", f"--write={name}"]) == 2
        assert "--write" in capsys.readouterr().err


def test_no_slurm_is_a_finding_not_a_traceback(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["doctor", "cluster=karolina", "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)
    assert not finding["ok"]
    assert "scontrol" in finding["text"]
