"""Submission: two nodes with two ranks each, the same science once only, and what Slurm refuses."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from hpctrain.config import compose
from hpctrain.config.load import from_dict, to_dict
from hpctrain.storage.search import locate
from tests.benchmarks.slurm_figures import counted_squeue, make_runs
from tests.slurm.conftest import ROOT, without_sacct
from tests.waiting import until

pytestmark = pytest.mark.slurm


@pytest.mark.long
def test_four_ranks_on_two_nodes(cluster, run):
    job = run("resources.gpus_per_node=2", "train.steps=20", "resources.timeout_min=5")
    facts = job.submit()
    assert facts["new"]
    assert facts["node_hours_max"] == 2 * 5 / 60
    assert facts["flops_total"] > 0
    again = job.submit()
    assert (again["new"], again["job_id"]) == (False, facts["job_id"])

    cluster.hpctrain("status", "--root", job.root, "--watch")
    row = job.await_end("done", "DONE")
    assert row["progress"] == 1
    ranks = [json.loads(f.read_text()) for f in sorted(job.path.glob("attempts/1/rank_*.json"))]
    assert [r["host"] for r in ranks] == ["node1", "node1", "node2", "node2"]
    assert "4 ranks (mpi" in cluster.hpctrain("logs", "--root", job.root, facts["run"])
    query = ("sacct", "-j", facts["job_id"], "-X", "-n", "-P", "-o", "AllocTRES,State")
    assert "gres/gpu=4" in until(
        lambda: "COMPLETED" in (text := cluster.call(*query)) and text, "the job's end"
    )
    assert oct(job.path.stat().st_mode)[-3:] == "700"

    err = cluster.hpctrain("submit", *job.settings)
    assert "validation" in err  # it is done: shown, not started again
    assert job.job_ids == [facts["job_id"]]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("cluster.account=nobody", "Invalid account"),
        ("cluster.partition=nowhere", "invalid partition"),
        ("cluster.gpu_gres=gpu:h100", "nvalid generic resource|not available"),
        ("cluster.qos=gold", "Invalid qos"),
        ("resources.timeout_min=100", "time limit"),
    ],
)
def test_what_slurm_refuses_leaves_nothing(cluster, run, setting, said):
    job = run("cluster.max_time_min=null", setting)
    err = job.submit(code=1)
    assert len(err.splitlines()) == 1
    assert "SUBMIT_FAILED: sbatch: error:" in err
    assert any(word in err for word in said.split("|")), err
    assert not job.root.exists()
    assert not cluster.call("squeue", "--noheader")


@pytest.mark.parametrize("when", [pytest.param("before", marks=pytest.mark.long), "after"])
def test_a_submitter_that_is_killed_orphans_no_job(cluster, run, tmp_path, when):
    """sbatch answers to nobody; the second try finds the job, or submits where there is none."""
    job = run("train.steps=100", f"seed={len(when)}")
    call = f'{shutil.which("sbatch")} "$@"\n' if when == "after" else ""
    fake = tmp_path / "bin" / "sbatch"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\n{call}kill -9 $PPID\n")
    fake.chmod(0o755)
    killed = subprocess.run(
        [sys.executable, "-m", "hpctrain.cli", "submit", *job.settings],
        env=cluster.environment | {"PATH": f"{fake.parent}:{os.environ['PATH']}"}, capture_output=True,
    )  # fmt: skip
    assert killed.returncode == -9
    there = cluster.call("squeue", "--noheader", "--format=%i").split()
    assert len(there) == (when == "after")
    job_id = job.submit()["job_id"]
    assert there in ([], [job_id])
    job.await_end("done", "DONE")
    assert job.job_ids == [job_id]
    comments = cluster.call("squeue", "--noheader", "--states=all", "--format=%k").split()
    assert sum(job.path.name in comment for comment in comments) == 1


def test_status_of_an_array(cluster, tmp_path):
    """Each element is a run's job: one runs, one waits for it, one is cancelled."""
    root = tmp_path / "runs"
    line = ["sbatch", "--parsable", "--array=0-2%1", "--wrap=sleep 100", "-o/dev/null", "--partition=low"]
    array = cluster.call(*line)
    for i in range(3):
        made = from_dict(compose.compose(["lenet_digits", "cluster=devcluster", f"seed={i}"]))
        element = locate(str(root), "default", f"run{i}")
        element.create(to_dict(made))
        element.state_file.write_text(json.dumps({"phase": "submitted", "heartbeat": time.time() - 60}))
        facts = {"cluster": "devcluster", "slurm_conf": str(cluster.conf), "job_ids": [f"{array}_{i}"]}
        element.submission_file.write_text(json.dumps(facts))

    def phases():
        rows = json.loads(cluster.hpctrain("status", "--root", root, "--json"))
        return [(r["phase"], r["job_id"]) for r in rows]

    cluster.call("scancel", f"{array}_2")
    ids = [f"{array}_{i}" for i in range(3)]
    until(lambda: cluster.call("squeue", "-h", "-t", "R", "-o%i"), "the array to run")
    expected = [("starting", ids[0]), ("submitted", ids[1]), ("cancelled", ids[2])]
    assert phases() == expected
    cluster.hpctrain("cancel", "--root", root, "--study", "default")
    until(lambda: not cluster.call("squeue", "-h"), "the array's end")
    assert [phase for phase, _ in phases()] == ["cancelled"] * 3


def test_status_of_many_runs_asks_squeue_once(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    make_runs(tmp_path / "runs", 200)
    calls, path = counted_squeue(tmp_path)
    rows = json.loads(cluster.hpctrain("status", "--root", tmp_path / "runs", "--json", PATH=path))
    assert [r["phase"] for r in rows].count("running") == 20
    assert calls.read_text() == "x"


@pytest.mark.long
def test_without_accounting(cluster, run, tmp_path):
    """slurmdbd down and sacct not installed: submission, status and the run's end are what they were."""
    path = {"PATH": without_sacct(tmp_path)}
    cluster.script("stop", "slurmdbd")
    try:
        job = run("train.steps=10")
        job.submit(**path)
        row = until(lambda: (row := job.status(**path))["phase"] == "done" and row, "the run's end")
        assert row["reason"] == "DONE"
        again = run("seed=1", "train.steps=10")
        again.submit()
        cluster.hpctrain("cancel", "--root", job.root, "--study", "default")
    finally:
        cluster.script("start", "slurmdbd")


@pytest.mark.long
def test_a_job_by_hand_is_the_same_run(cluster, run, same_weights):
    """slurm/train.sbatch, without submitit: requeued by hand in the middle, it goes on and ends alike."""
    job = run()
    line = ["sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1", "-o/dev/null"]
    job_id = subprocess.run(
        [*line, ROOT / "slurm" / "train.sbatch", *job.settings], capture_output=True, text=True, check=True,
        env=cluster.environment | {"HPCTRAIN_PYTHON": sys.executable}, cwd=job.root.parent,
    ).stdout.strip()  # fmt: skip
    until(lambda: [*job.root.glob("*/*/state.json")], "the run")
    job.await_step(20)
    cluster.call("scontrol", "requeue", job_id)
    job.await_end("done", "DONE")
    assert (job.job_ids, job.state["attempt"]) == ([job_id], 2)
    same_weights(job)
