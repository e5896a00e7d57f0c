"""Time is the process's own: suspended jobs, clocks that are wrong, limits that somebody changes, on a real Slurm."""

import os
import time
from pathlib import Path

import pytest

from hpctrain.scheduler import client
from tests.slurm.conftest import ROOT
from tests.waiting import until

pytestmark = pytest.mark.slurm

HERE = Path(__file__).parent
AHEAD = f"{HERE / 'shifted'}:{HERE}:{ROOT}"  # a PYTHONPATH


def suspend(cluster, job_id, seconds):
    cluster.call("scontrol", "suspend", job_id)
    until(
        lambda: cluster.call("squeue", "-h", "-j", job_id, "-o%T") == "SUSPENDED", "the job to be suspended"
    )
    time.sleep(seconds)
    cluster.call("scontrol", "resume", job_id)


@pytest.mark.long
def test_a_job_that_is_suspended_for_longer_than_its_timeout_goes_on(cluster, run, same_weights):
    job = run("comm.timeout_s=5")
    job_id = job.submit()["job_id"]
    job.await_step(20)
    suspend(cluster, job_id, 15)
    job.await_end("done", "DONE")
    assert (job.job_ids, job.state["attempt"]) == ([job_id], 1)
    same_weights(job)


@pytest.mark.long
def test_a_job_that_gets_its_nodes_in_turns_goes_on(cluster, run, same_weights):
    job = run("comm.timeout_s=5", "+model.pause_s=0.1")
    job_id = job.submit()["job_id"]
    job.await_step(10)
    for _ in range(4):
        suspend(cluster, job_id, 8)
        time.sleep(2)
    job.await_end("done", "DONE")
    assert (job.job_ids, job.state["attempt"]) == ([job_id], 1)
    same_weights(job)


def test_a_clock_that_is_an_hour_ahead_ends_nothing(cluster, run, same_weights):
    job = run("resources.timeout_min=10")
    job_id = job.submit(PYTHONPATH=AHEAD)["job_id"]
    job.await_end("done", "DONE")
    assert (job.job_ids, job.state["attempt"]) == ([job_id], 1)
    written_s = (job.path / "state.json").stat().st_mtime  # by the kernel's clock, later than the start
    assert job.state["started"] > written_s + 3000, "the ranks' clock was ahead"
    same_weights(job)


@pytest.mark.long
def test_a_limit_that_is_extended_is_seen(cluster, run, same_weights):
    """The run takes longer than the minute that it had at first. Slurm warns after 25 s at the earliest."""
    job = run("resources.timeout_min=1", "cluster.signal_s=5", "+model.pause_s=0.7")
    job_id = job.submit()["job_id"]
    job.await_step(1)
    cluster.call("scontrol", "update", f"JobId={job_id}", "TimeLimit=10")
    job.await_end("done", "DONE")
    assert 0.7 * job.state["step"] > 60, "its steps alone take longer than that minute"
    assert (job.job_ids, job.state["attempt"]) == ([job_id], 1)
    same_weights(job)


@pytest.mark.long
def test_the_limit_of_a_suspended_job_comes_later(cluster, run, same_weights):
    """Slurm does not count the time of a suspension, and neither does the run."""
    job = run("resources.timeout_min=2", "cluster.signal_s=5", "+model.pause_s=0.7")
    job_id = job.submit()["job_id"]
    job.await_step(1)
    suspend(cluster, job_id, 90)
    job.await_end("done", "DONE")
    assert (job.job_ids, job.state["attempt"]) == ([job_id], 1)
    same_weights(job)


def test_what_is_left_of_a_job_is_what_the_controller_says(cluster, run, monkeypatch):
    run()  # its queue is emptied in the end
    for key, value in cluster.environment.items():
        monkeypatch.setenv(key, value)
    array = cluster.call(
        "sbatch", "--parsable", "--array=1-2", "--time=10", "-o/dev/null", "--wrap=sleep 600"
    )
    tasks = [f"{array}_{n}" for n in (1, 2)]
    until(
        lambda: all(cluster.call("squeue", "-h", "-j", task, "-o%T") == "RUNNING" for task in tasks),
        "both tasks to run",
    )
    assert 500 < client.time_left(tasks[0]) <= 600
    cluster.call("scontrol", "update", f"JobId={tasks[1]}", "TimeLimit=30")
    assert 500 < client.time_left(tasks[0]) <= 600
    assert 1700 < client.time_left(tasks[1]) <= 1800
    left_s = client.time_left(tasks[0])
    suspend(cluster, tasks[0], 6)
    assert client.time_left(tasks[0]) > left_s - 5
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert 1700 < client.time_left(tasks[1]) <= 1800
    assert client.time_left("999999") is None
    monkeypatch.setenv("SLURM_CONF", os.devnull)
    assert client.time_left(tasks[0]) is None
