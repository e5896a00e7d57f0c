"""What happens to jobs on real clusters, done to real jobs: how status and the weights come out of it.

Each fault comes in the middle of training. Wherever the run goes on with as many ranks, its weights in the
end are bitwise those of the run that nothing disturbed.
"""

import os
import signal

import pytest

from tests.slurm.conftest import without_sacct
from tests.waiting import until

pytestmark = pytest.mark.slurm


def resume(cluster, job):
    cluster.hpctrain("resume", "--root", job.root)
    job.await_end("done", "DONE")


@pytest.mark.long
def test_cancelled_then_resumed(cluster, run, same_weights):
    job = run()
    job.submit()
    job.await_step(20)
    cluster.hpctrain("cancel", "--root", job.root)
    job.await_end("cancelled", "CANCELLED")
    assert job.state["step"] < 100
    resume(cluster, job)
    same_weights(job)


@pytest.mark.long
def test_scancel(cluster, run, same_weights):
    job = run()
    job_id = job.submit()["job_id"]
    job.await_step(20)
    cluster.call("scancel", job_id)
    job.await_end("cancelled", "CANCELLED")
    resume(cluster, job)
    same_weights(job)


@pytest.mark.long
def test_scontrol_requeue(cluster, run, same_weights):
    job = run()
    job_id = job.submit()["job_id"]
    job.await_step(20)
    cluster.call("scontrol", "requeue", job_id)
    job.await_end("done", "DONE")
    assert job.job_ids == [job_id]
    assert job.state["attempt"] == 2
    same_weights(job)


def preempt(cluster, job):
    """A job of the higher partition takes all nodes, until the run has lost its own."""
    line = [
        "sbatch",
        "--parsable",
        "--partition=high",
        "--nodes=4",
        "--exclusive",
        "--wrap=sleep 3",
        "-o/dev/null",
    ]
    taker = cluster.call(*line)
    until(
        lambda: cluster.call("squeue", "-h", "-j", taker, "-t", "all", "-o%T") == "COMPLETED", "the preemptor"
    )


def test_preempted_at_once(cluster, run, same_weights):
    job = run()
    job_id = job.submit()["job_id"]
    job.await_step(20)
    preempt(cluster, job)
    job.await_end("done", "DONE")
    assert (job.job_ids, job.state["attempt"]) == ([job_id], 2)
    same_weights(job)


@pytest.mark.long
@pytest.mark.parametrize("user_signal", [False, True])
def test_preempted_with_grace(cluster, run, same_weights, user_signal):
    cluster.set(SlurmctldParameters="preempt_send_user_signal" if user_signal else None)
    cluster.call("scontrol", "update", "partition=low", "GraceTime=60")
    try:
        job = run()
        job_id = job.submit()["job_id"]
        job.await_step(20)
        preempt(cluster, job)
        job.await_end("done", "DONE")
    finally:
        cluster.call("scontrol", "update", "partition=low", "GraceTime=0")
        cluster.set(SlurmctldParameters=None)
    assert (job.job_ids, job.state["attempt"]) == ([job_id], 2)
    same_weights(job)


@pytest.mark.long
def test_preempted_where_requeue_is_off(cluster, run, same_weights):
    """With grace the run submits its next job itself."""
    cluster.call("scontrol", "update", "partition=low", "GraceTime=60")
    try:
        job = run("cluster.requeue=false")
        job.submit()
        job.await_step(20)
        preempt(cluster, job)
        job.await_end("done", "DONE")
    finally:
        cluster.call("scontrol", "update", "partition=low", "GraceTime=0")
    assert (len(job.job_ids), job.state["attempt"]) == (2, 2)
    same_weights(job)


@pytest.mark.long
def test_time_limit(cluster, run, same_weights):
    """Slurm's shortest limit is a minute: the warning is set to come in its middle, and training to take as long."""
    job = run("resources.timeout_min=1", "cluster.signal_s=25", "+model.pause_s=0.4")
    job_id = job.submit()["job_id"]
    job.await_end("done", "DONE")
    assert job.job_ids == [job_id]
    assert job.state["attempt"] > 1
    assert "TIME_LIMIT" in (job.path / "attempts/1/rank_0.json").read_text()
    same_weights(job)


@pytest.mark.long
def test_a_chain_of_jobs(cluster, run, same_weights):
    job = run("resources.timeout_min=1", "cluster.signal_s=25", "+model.pause_s=0.4", "resources.chain=8")
    job.submit()
    assert len(job.job_ids) == 8
    job.await_end("done", "DONE")
    assert job.state["attempt"] > 1
    same_weights(job)
    until(lambda: not cluster.call("squeue", "-h"), "the rest of the chain to be taken back")


def test_a_killed_rank_takes_the_others_with_it(cluster, run, same_weights):
    job = run()
    job.submit()
    job.await_step(20)
    os.kill(job.hosts(1)["node2"], signal.SIGKILL)
    row = job.await_end("failed", "RANK_KILLED")
    assert "rank 1" in row["detail"]
    until(lambda: not cluster.call("squeue", "-h"), "the job's end")
    resume(cluster, job)
    same_weights(job)


@pytest.mark.long
@pytest.mark.parametrize("host", ["node1", "node2"])
def test_a_stopped_rank_ends_the_run_after_the_timeout(cluster, run, same_weights, host):
    job = run("comm.timeout_s=8")
    job.submit()
    job.await_step(20)
    os.kill(job.hosts(1)[host], signal.SIGSTOP)
    job.await_end("failed", "COLLECTIVE_TIMEOUT")
    until(lambda: not cluster.call("squeue", "-h"), "the job's end")
    cluster.hpctrain("resume", "--root", job.root)
    job.await_end("done", "DONE")
    same_weights(job)


def test_a_lost_node(cluster, run, same_weights):
    job = run()
    job_id = job.submit()["job_id"]
    job.await_step(20)
    cluster.script("stop", "node", "node2")
    try:
        job.await_end("done", "DONE")  # on the nodes that are left
        assert "node2" not in job.hosts(2)
    finally:
        cluster.script("start", "node", "node2")
    assert (job.job_ids, job.state["attempt"]) == ([job_id], 2)
    same_weights(job)
    until(lambda: "node2 idle" in cluster.call("sinfo", "-Nh", "-plow", "-o%N %T"), "node2 to be back")


@pytest.mark.long
def test_the_controller_restarts(cluster, run, same_weights, tmp_path):
    job = run("+model.pause_s=0.4")
    job_id = job.submit()["job_id"]
    job.await_step(20)
    cluster.script("stop", "slurmctld", "--kill")
    try:
        row = job.status()
        assert (row["phase"], row["scheduler"]) == ("running", "unreachable")
        again = job.submit()
        assert (again["new"], again["job_id"]) == (False, job_id)
        another = run("seed=1", "train.steps=5", f"run.root={tmp_path}/other")
        assert "SUBMIT_FAILED" in another.submit(code=1)
    finally:
        cluster.script("start", "slurmctld")
    job.await_end("done", "DONE")
    assert (job.job_ids, job.state["attempt"]) == ([job_id], 1)
    same_weights(job)
    # sbatch had not been answered: the second try looks for a job first, and submits as there is none
    other = another.submit()
    queued = cluster.call("squeue", "--noheader", "--states=all", "--format=%i %k").splitlines()
    assert [line.split()[0] for line in queued if f"{other['run']}:" in line] == [other["job_id"]]


@pytest.mark.long
def test_a_job_that_slurm_has_forgotten(cluster, run, same_weights, tmp_path):
    """Its node went with everybody who could have said how it ended, and MinJobAge has passed: sacct knows."""
    cluster.set(MinJobAge=2)
    job = run("cluster.requeue=false", "+model.pause_s=0.2")
    job_id = job.submit()["job_id"]
    job.await_step(20)
    cluster.script("stop", "node", "node1")
    try:
        until(
            lambda: job_id not in cluster.call("squeue", "-h", "-tall", "-o%i").split(),
            "Slurm to forget the job",
        )
    finally:
        cluster.script("start", "node", "node1")
        cluster.set(MinJobAge=300)
    row = job.status(PATH=without_sacct(tmp_path))
    assert (row["phase"], row["scheduler"]) == ("running", "unknown")  # nobody says that it has ended
    job.await_end("failed", "NODE_FAILURE")
    resume(cluster, job)
    same_weights(job)


@pytest.mark.long
def test_three_starts_without_a_step_are_enough(cluster, run):
    """Each time the job is put back in the middle of its first step, which is longer than Slurm waits for its end."""
    job = run("+model.pause_s=120")
    job_id = job.submit()["job_id"]
    for attempt in (1, 2, 3):
        until(
            lambda n=attempt: job.state.get("starts") == [0] * n,
            f"start {attempt}: {job.state}\n{job.logs()}",
        )
        cluster.call("scontrol", "requeue", job_id)
    job.await_end("failed", "NO_PROGRESS")
    assert job.job_ids == [job_id]
