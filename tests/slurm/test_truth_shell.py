"""The batch shell outlives warnings, and what it, srun or the kernel say of an end is how the run's end is told."""

import os
import signal
import subprocess
import sys

import pytest

from hpctrain.launch import failure
from hpctrain.storage.run_dir import RunDir
from tests.slurm.conftest import ROOT
from tests.waiting import until

pytestmark = pytest.mark.slurm


def ended(cluster, job_id):
    """Waits until the job has left the queue; returns its state in Slurm."""
    query = ("squeue", "--noheader", "--states=all", f"--jobs={job_id}", "--format=%T")
    return until(
        lambda: (state := cluster.call(*query)) not in ("PENDING", "RUNNING", "COMPLETING") and state,
        "the job's end",
    )


@pytest.mark.long
@pytest.mark.parametrize("how", [[f"--signal={name}", "--batch"] for name in ("USR2", "TERM", "HUP")])
def test_a_signal_to_the_batch_shell_alone_changes_nothing(cluster, run, same_weights, how):
    job = run()
    job_id = job.submit()["job_id"]
    job.await_step(20)
    cluster.call("scancel", *how, job_id)
    job.await_end("done", "DONE")
    assert ended(cluster, job_id) == "COMPLETED"
    assert (job.job_ids, job.state["attempt"]) == ([job_id], 1)
    same_weights(job)


@pytest.mark.long
def test_a_warning_to_all_processes_of_the_job(cluster, run, same_weights):
    """srun, the ranks and the shell have it: the ranks save, and the job comes back."""
    job = run()
    job_id = job.submit()["job_id"]
    job.await_step(20)
    cluster.call("scancel", "--signal=USR2", "--full", job_id)
    job.await_end("done", "DONE")
    assert (job.job_ids, job.state["attempt"]) == ([job_id], 2)
    same_weights(job)


@pytest.mark.parametrize("number", [signal.SIGILL, pytest.param(signal.SIGBUS, marks=pytest.mark.long)])
def test_a_rank_that_crashed_by_the_name_of_its_signal(cluster, run, number):
    job = run()
    job_id = job.submit()["job_id"]
    job.await_step(20)
    os.kill(job.hosts(1)["node2"], number)
    row = job.await_end("failed", "RANK_KILLED")
    assert row["detail"].startswith(f"rank 1: {signal.strsignal(number)} ({number.name})")
    assert f"Fatal Python error: {signal.strsignal(number)}" in row["detail"]
    assert ended(cluster, job_id) == "FAILED"
    assert f"task 1: {signal.strsignal(number)}" in cluster.hpctrain("logs", "--root", job.root)


def test_modules_that_do_not_load(cluster, run):
    job = run("cluster.modules=[Nonsuch]")
    job_id = job.submit()["job_id"]
    row = job.await_end("failed", "ERROR")
    assert row["detail"].startswith("module load Nonsuch failed: the ranks were not started: ")
    assert row["detail"].endswith("module: command not found")
    assert ended(cluster, job_id) == "FAILED"
    assert not (job.path / "attempts").exists()
    assert "module: command not found" in cluster.hpctrain("logs", "--root", job.root)


def test_a_python_that_is_gone_while_the_job_waits(cluster, run, tmp_path):
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    job = run(f"cluster.python={python}", "cluster.reservation=null", "+cluster.sbatch.hold=true")
    job_id = job.submit()["job_id"]
    python.unlink()
    cluster.call("scontrol", "release", job_id)
    assert ended(cluster, job_id) == "FAILED"
    reason, detail, _ = failure.cause(RunDir(job.path), job_id)
    assert reason == "ERROR"
    assert f"execve(): {python}: No such file or directory" in detail
    said = cluster.hpctrain("logs", "--root", job.root)
    assert f"{python}: No such file or directory" in said


@pytest.mark.long
def test_modules_that_do_not_load_in_a_job_by_hand(cluster, run, tmp_path):
    job = run("resources.nodes=1")
    script = tmp_path / "train.sbatch"
    text = (ROOT / "slurm" / "train.sbatch").read_text()
    script.write_text(text.replace("# module load OpenMPI", "module load Nonsuch"))
    wanted = [s for s in job.settings if not s.startswith("resources.")]
    flags = ["--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=1", "--parsable", "--wait"]
    done = subprocess.run(
        ["sbatch", *flags, str(script), *wanted], cwd=tmp_path, capture_output=True, text=True,
        env=cluster.environment | {"HPCTRAIN_PYTHON": sys.executable},
    )  # fmt: skip
    assert done.returncode == 127, done.stderr
    row = job.await_end("failed", "ERROR")
    assert row["detail"].startswith(
        "a line of train.sbatch (exit code 127) failed: the ranks were not started: "
    )
    assert row["detail"].endswith("module: command not found")
