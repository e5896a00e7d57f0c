"""`hpctrain doctor` on the real cluster: all ok with its preset, and what is wrong where the preset is."""

import json

import pytest

from hpctrain.config.conf_files import conf_dir

pytestmark = pytest.mark.slurm


def test_the_development_cluster_is_all_ok(cluster, tmp_path):
    out = cluster.hpctrain("doctor", "cluster=devcluster", f"run.root={tmp_path}/runs")
    assert all(line.startswith("ok ") for line in out.splitlines()), out
    for what in ("partition", "MPI", "accounting", "preemption", "job", "storage", "allreduce", "GPU"):
        assert f" {what} " in out
    assert not (tmp_path / "runs").exists()
    assert "hpctrain" not in cluster.call("squeue", "--noheader", "--format=%k")


def test_what_is_wrong_is_said(cluster, tmp_path):
    wrong = (
        "cluster.partition=high",
        "cluster.gpus_per_node=8",
        "cluster.mpi=openmpi",
        "cluster.max_time_min=1000",
    )
    line = ("doctor", "cluster=devcluster", *wrong, f"run.root={tmp_path}", "--no-job", "--json")
    findings = {f["what"]: f for f in json.loads(cluster.hpctrain(*line, code=1, stream="stdout"))}
    assert {what for what, f in findings.items() if not f["ok"]} == {"partition", "nodes", "MPI"}
    assert findings["MPI"]["advice"] == "set cluster.mpi=pmix"


def test_it_finds_the_cluster_by_itself_and_writes_its_preset(cluster, tmp_path):
    file = conf_dir() / "cluster" / f"{cluster.name}.yaml"
    try:
        cluster.hpctrain("doctor", "--no-job", "--write", cluster.name, f"run.root={tmp_path}/runs")
        script = cluster.hpctrain("submit", "lenet_digits", f"cluster={cluster.name}", "--dry-run")
    finally:
        file.unlink(missing_ok=True)
    assert "#SBATCH --partition=low" in script
    assert "#SBATCH --ntasks-per-node=4" in script
    assert "#SBATCH --time=60" in script
