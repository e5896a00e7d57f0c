"""A job over two nodes with two ranks each: submitted, followed, looked at, and the same science once only."""

import json

from tests.slurm.conftest import until


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
