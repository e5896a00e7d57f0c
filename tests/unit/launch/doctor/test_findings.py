"""The doctor's judgement: Slurm's answers, as a real one gave them, beside what a preset says."""

import dataclasses
import datetime
import json
from functools import cache

import pytest
import yaml

from hpctrain import cli
from hpctrain.config.conf_files import conf_dir
from hpctrain.data import derive
from hpctrain.launch.doctor import findings
from hpctrain.launch.doctor.findings import Finding
from hpctrain.scheduler import answers, site

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


def found(slurm=CONFIG, **changes):
    """Returns what Slurm says, by `slurm` as its configuration."""
    partitions = site.parse_partitions(PARTITIONS)
    whole = findings.Site(
        site.parse_config(slurm), partitions[0], site.parse_nodes(NODES), site.parse_mpi(MPI),
        site.parse_associations("devel||10\n"),
    )  # fmt: skip
    return dataclasses.replace(whole, **changes)


@cache
def base():
    return derive.load(["lenet_digits", "cluster=devcluster", "cluster.gpus_per_node=2"])


def preset(**changes):
    """Returns the configuration whose preset has these changes."""
    return dataclasses.replace(base(), cluster=dataclasses.replace(base().cluster, **changes))


def judged(config=None, site=None):
    return {f.what: f for f in findings.judge(config or base(), site or found())}


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


OK = {
    "partition": "low: 2 nodes, 60 min, 4 nodes per job",
    "nodes": "4 CPUs, 2 GPUs, 16 GB each; 1 in use or free",  # the least that each node has
    "MPI": "srun --mpi=pmix; Slurm has pmix, none, pmi2, pmix_v3, pmix_v4",
    "accounting": "on; your accounts: devel",
    "limits": "MaxArraySize 1001, MaxJobCount 10000, devel: 10 jobs submitted",
    "requeue": "JobRequeue on; jobs are put back by Slurm",
    "preemption": "by REQUEUE: SIGTERM, then KillWait (5 sec) alone to save",
}


def test_what_fits_is_ok():
    assert list(findings.judge(base(), found())) == [Finding(what, text) for what, text in OK.items()]
    assert all(f.ok for f in judged().values())


@pytest.mark.parametrize(
    ("changes", "what", "text", "advice"),
    [
        ({"gpus_per_node": 4}, "nodes", f"{OK['nodes']}; the preset says gpus_per_node=4",
         "set cluster.gpus_per_node=2"),
        ({"cpus_per_node": 5}, "nodes", f"{OK['nodes']}; the preset says cpus_per_node=5",
         "set cluster.cpus_per_node=4"),
        ({"mem_gb_per_node": 15.7}, "nodes", f"{OK['nodes']}; the preset says mem_gb_per_node=15.7",
         "set cluster.mem_gb_per_node=15.625"),
        ({"max_time_min": 61}, "partition", f"{OK['partition']}; the preset says 61",
         "set cluster.max_time_min=60"),
        ({"mpi": "cray_shasta"}, "MPI", "srun --mpi=cray_shasta; Slurm has pmix, none, pmi2, pmix_v3, pmix_v4",
         "set cluster.mpi=pmix"),
        ({"account": "other"}, "accounting", "account other is not yours", "set cluster.account to devel"),
        ({"needs": ("partition", "qos"), "partition": "low"}, "accounting", "this cluster asks for qos",
         "give cluster.qos=NAME (devel)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_comes_with_what_to_do(changes, what, text, advice):
    given = judged(preset(**changes))
    assert [f for f in given.values() if not f.ok] == [Finding(what, text, advice)]


@pytest.mark.parametrize(
    ("changes", "what", "text"),
    [
        ({"mem_gb_per_node": 15.625, "cpus_per_node": None}, "nodes", OK["nodes"]),
        ({"max_time_min": None}, "partition", OK["partition"]),
        ({"mpi": None}, "MPI", "srun --mpi=None; Slurm has pmix, none, pmi2, pmix_v3, pmix_v4"),
        ({"account": "devel"}, "accounting", OK["accounting"]),
        ({"requeue": False}, "requeue", "JobRequeue on; the run submits its next job itself"),
    ],
)
def test_what_a_preset_may_leave_open_or_has_just_right(changes, what, text):
    assert judged(preset(**changes))[what] == Finding(what, text)


@pytest.mark.parametrize(
    ("state", "usable"),
    [
        ("IDLE", 2),
        ("MIXED", 2),
        ("ALLOCATED", 2),
        ("COMPLETING", 2),
        ("PLANNED", 2),
        ("DOWN", 0),
        ("FAIL", 0),
    ],
)
def test_nodes_that_work_or_wait_for_work_can_take_a_job(state, usable):
    nodes = [dataclasses.replace(node, state=state) for node in site.parse_nodes(NODES)]
    given = judged(site=found(nodes=nodes))["nodes"]
    assert given.text.endswith(f"; {usable} in use or free")
    assert given.ok == bool(usable)


LOW, HIGH = site.parse_partitions(PARTITIONS)
BY_SIGNAL = "PreemptParameters = send_user_signal\n"


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        (found(partition=HIGH), Finding("partition", "high: 2 nodes, 2160 min, 2 nodes per job; it is down",
                                        "choose another with cluster.partition=NAME, or wait")),
        (found(partition=dataclasses.replace(LOW, max_time_min=None)),
         Finding("partition", "low: 2 nodes, no time limit, 4 nodes per job")),
        (found(nodes=site.parse_nodes(NODES)[1:]),
         Finding("nodes", "4 CPUs, 2 GPUs, 16 GB each; 0 in use or free",
                 "no node can take a job now; `sinfo --list-reasons` says why")),
        (found(slurm=CONFIG.replace("slurmdbd", "none")),
         Finding("accounting", "off: status works without sacct")),
        (found(slurm=""), Finding("accounting", "off: status works without sacct")),
        (found(associations=None),
         Finding("accounting", "on, but sacctmgr does not answer; status works without it", "tell the site's admins")),
        (found(associations=[]), Finding("accounting", "on; your accounts: not said")),
        (found(associations=site.parse_associations("b||\na||\nb||\n")),
         Finding("accounting", "on; your accounts: a, b")),
        (found(associations=None), Finding("limits", "MaxArraySize 1001, MaxJobCount 10000")),
        (found(associations=site.parse_associations("a||7\nb||\nc||9\n")),
         Finding("limits", "MaxArraySize 1001, MaxJobCount 10000, a: 7 jobs submitted, c: 9 jobs submitted")),
        (found(slurm=CONFIG.replace("JobRequeue              = 1", "JobRequeue = 0")),
         Finding("requeue", "JobRequeue off, asked for by each job; jobs are put back by Slurm")),
        (found(slurm=CONFIG.replace("preempt/partition_prio", "preempt/none")),
         Finding("preemption", "jobs in this partition are not preempted; KillWait 5 sec")),
        (found(slurm=""), Finding("preemption", "jobs in this partition are not preempted; KillWait 30 sec")),
        (found(partition=HIGH), Finding("preemption", "jobs in this partition are not preempted; KillWait 5 sec")),
        (found(partition=None), Finding("preemption", "jobs in this partition are not preempted; KillWait 5 sec")),
        (found(partition=dataclasses.replace(LOW, grace_s=30)),
         Finding("preemption", "by REQUEUE: SIGTERM, then 30 s to save")),
        (found(slurm=CONFIG + BY_SIGNAL),
         Finding("preemption", "by REQUEUE: the job's own signal, then KillWait (5 sec) alone to save")),
        (found(slurm=CONFIG + BY_SIGNAL.replace("Preempt", "Slurmctld")),  # older Slurm
         Finding("preemption", "by REQUEUE: the job's own signal, then KillWait (5 sec) alone to save")),
    ],
)  # fmt: skip
def test_what_other_clusters_say(site, expected):
    assert judged(site=site)[expected.what] == expected


@pytest.mark.parametrize(("partition", "text"), [("gpu", "there is no gpu"), (None, "none is the default")])
def test_without_a_partition_nothing_is_said_of_nodes(partition, text):
    given = judged(preset(partition=partition), found(partition=None, nodes=[]))
    assert given["partition"] == Finding(
        "partition", text, "set cluster.partition=NAME; `sinfo -s` lists them"
    )
    assert "nodes" not in given


def test_an_account_is_not_judged_if_slurm_names_none():
    assert judged(preset(account="mine"), found(associations=[]))["accounting"].ok
    two = found(associations=site.parse_associations("b||\na||\n"))
    assert judged(preset(account="mine"), two)["accounting"].advice == "set cluster.account to a or b"
    asks = judged(preset(needs=("account",)), two)["accounting"]
    assert (asks.text, asks.advice) == ("this cluster asks for account", "give cluster.account=NAME (a, b)")


def test_the_preset_it_writes_is_one():
    text = findings.preset("here", preset(slurm_conf="/etc/slurm.conf"), found())
    assert text.startswith("# Written by hpctrain doctor.\nname: here\n")
    written = yaml.safe_load(text)
    datetime.date.fromisoformat(written.pop("source_date"))
    assert list(written.items()) == [
        ("name", "here"),
        ("kind", "slurm"),
        ("partition", "low"),
        ("account", "devel"),
        ("gpus_per_node", 2),
        ("cpus_per_node", 4),
        ("cpus_per_gpu", 2),
        ("mem_gb_per_node", 15.6),
        ("max_time_min", 60),
        ("max_nodes", 4),
        ("mpi", "pmix"),
        ("slurm_conf", "/etc/slurm.conf"),
        ("source", "hpctrain doctor on default, Slurm 22.05.8"),
    ]
    base = yaml.safe_load((conf_dir() / "cluster_base.yaml").read_text())
    assert written.keys() <= base.keys()


def test_the_preset_leaves_out_what_is_not_known():
    def written(*, site, **changes):
        return yaml.safe_load(findings.preset("here", preset(**changes), site))

    assert set(written(site=found(partition=None, nodes=[], associations=None), slurm_conf=None)) == {
        "name", "kind", "mpi", "source", "source_date",
    }  # fmt: skip
    without_gpus = [dataclasses.replace(node, gpus=0) for node in site.parse_nodes(NODES)]
    assert not {"gpus_per_node", "cpus_per_gpu"} & set(written(site=found(nodes=without_gpus)))
    two = found(associations=site.parse_associations("a||\nb||\n"))
    assert "account" not in written(site=two)
    assert written(site=two, account="b")["account"] == "b"
    assert written(site=found(), mpi="pmi2")["mpi"] == "pmi2"
    assert written(site=found(), mpi="cray_shasta")["mpi"] == "pmix"


def rank(number, **changes):
    """Returns what one rank of the doctor's job writes."""
    return {
        "rank": number, "host": f"node{number + 1}", "python": "3.11.2", "torch": "2.5.1", "storage": "ok",
        "sum": 3.0, "allreduce_ms": 4.0 + number, "device": "cpu", "visible_gpus": "", "transport": "mpi",
        "built": ["mpi", "gloo"],
    } | changes  # fmt: skip


def judged_job(folder, *ranks, state="COMPLETED"):
    end = answers.Job("7", state, "Resources") if state else None
    return list(findings.judge_job("7", end, list(ranks), folder))


def test_a_job_that_worked(tmp_path):
    assert judged_job(tmp_path / "doctor", rank(0), rank(1)) == [
        Finding("job", "7: 2 ranks on node1, node2, Python 3.11.2, torch 2.5.1"),
        Finding("storage", f"{tmp_path}: seen from the nodes; rename, fsync, link and lock work"),
        Finding("allreduce", "Horovod over mpi (mpi, gloo built): 4 MB in 5.0 ms"),  # the slower rank's
        Finding("GPU", "ranks compute on the CPU: torch sees no GPU; Slurm gave none, none"),
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"storage": "flock() fails"}, Finding("storage", "{root}: flock() fails",
         "give run.root=FOLDER on storage that all nodes share")),
        ({"sum": 2.0}, Finding("allreduce", "Horovod over mpi (mpi, gloo built): 4 MB in 5.0 ms",
         "the sum is wrong: build Horovod again on a node")),
    ],
)  # fmt: skip
def test_what_one_rank_says_is_enough(tmp_path, changes, expected):
    given = judged_job(tmp_path / "doctor", rank(0), rank(1, **changes))
    assert [f for f in given if not f.ok] == [
        dataclasses.replace(expected, text=expected.text.format(root=tmp_path))
    ]


@pytest.mark.parametrize(
    ("built", "advice"),
    [
        (["mpi"], "build Horovod with NCCL: slurm/build_horovod on a GPU node"),
        (["mpi", "nccl"], ""),
    ],
)
def test_gpus_need_nccl(tmp_path, built, advice):
    on_gpu = {"device": "NVIDIA A100", "visible_gpus": "0,1", "built": built}
    given = judged_job(tmp_path, rank(0, **on_gpu), rank(1, **on_gpu))
    assert given[-1] == Finding("GPU", "ranks compute on NVIDIA A100; Slurm gave 0,1, 0,1", advice)
    # A single rank on the CPU is enough to say so.
    half = judged_job(tmp_path, rank(0, **on_gpu), rank(1))[-1]
    assert half.text == "ranks compute on the CPU: torch sees no GPU; Slurm gave 0,1, none"


def test_a_job_that_waits_is_not_judged(tmp_path):
    assert judged_job(tmp_path, state="PENDING") == [
        Finding(
            "job", "7 waits for longer than the doctor does: Resources",
            "try again when nodes are free, or with --no-job",
        )
    ]  # fmt: skip


def test_a_job_that_failed_says_what_it_can(tmp_path):
    def said(*ranks, **job):
        (only,) = judged_job(tmp_path, *ranks, **job)
        assert only.what == "job"
        assert (
            only.advice == "compare cluster.mpi, cluster.modules and cluster.python with the line MPI above"
        )
        return only.text

    broken = {"rank": 1, "host": "node2", "error": "ImportError: no horovod"}
    assert said(rank(0), state="FAILED") == "1 of 2 ranks answered (FAILED)"
    assert said(state=None) == "0 of 2 ranks answered (gone)"
    # The end of the logs, in the order of their names; what is not text does not hide the rest.
    (tmp_path / "submitit").mkdir()
    (tmp_path / "submitit" / "7_0.out").write_bytes(b"first \xff word\n")
    (tmp_path / "submitit" / "7_1.out").write_text(" ".join(f"w{n}" for n in range(38)))
    (tmp_path / "submitit" / "7.err").write_text("not read")
    assert said(state="FAILED").split() == ["\ufffd", "word", *(f"w{n}" for n in range(38))]
    # What a rank says comes first.
    assert said(rank(0), broken) == "rank 1 on node2: ImportError: no horovod"


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
