"""What became of a run's small files and of its folder's name changes neither its jobs nor what is said of them."""

import json
import os

import pytest

from tests.slurm.conftest import Run
from tests.waiting import until

pytestmark = pytest.mark.slurm
LONG = ("train.steps=100000",)


def test_a_run_at_work_is_known_without_its_state_and_submission(cluster, run):
    job = run(*LONG)
    number = job.submit()["job_id"]
    job.await_step(20)
    (job.path / "submission.json").write_text('{"job_ids": "77"')
    (job.path / "attempts/1/rank_1.json").unlink()
    os.mkfifo(job.path / "attempts/1/rank_1.json")
    row = job.status()
    assert (row["phase"], row["job_id"]) == ("running", number)
    assert "submission.json is damaged" in row["detail"]
    assert f"under way already as job {number}" in cluster.hpctrain(
        "resume", job.path.name, "--root", job.root
    )
    cluster.hpctrain("cancel", job.path.name, "--root", job.root)
    job.await_end("cancelled", "CANCELLED")


def test_a_state_that_is_lost_after_the_end_is_found_again(cluster, run):
    job = run()
    job.submit()
    job.await_end("done", "DONE")
    for damage in ("", "[1]", '{"phase": 5}'):
        (job.path / "state.json").write_text(damage)
        row = job.status()
        assert (row["phase"], row["reason"], row["step"]) == ("done", "DONE", 100)
        assert "state.json is damaged" in row["detail"]
        assert job.state["phase"] == "done", "status may write what it has found"


@pytest.mark.long
def test_garbage_in_the_records_and_a_lost_state_do_not_stop_resume(cluster, run, same_weights):
    job = run()
    number = job.submit()["job_id"]
    job.await_step(20)
    cluster.call("scancel", "--signal=KILL", number)
    until(lambda: not cluster.call("squeue", "--noheader"), "the job to end")
    with (job.path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"kind": "train", "st\n' + b"\0" * 4096 + bytes(range(256)))
    (job.path / "state.json").unlink()
    os.mkfifo(job.path / "state.json")
    cluster.hpctrain("resume", job.path.name, "--root", job.root)
    job.await_end("done", "DONE")
    assert "damaged lines are dropped" in (job.path / "attempts/2/rank_0.log").read_text()
    for line in (job.path / "metrics.jsonl").read_text().splitlines():
        json.loads(line)
    same_weights(job)


def test_science_that_was_edited_ends_the_job_before_its_first_step(cluster, run):
    job = run()
    job.submit("+cluster.sbatch.begin=now+1hour")
    config = job.path / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 5"))
    cluster.call("scontrol", "update", f"JobId={job.job_ids[-1]}", "StartTime=now")
    row = job.await_end("failed", "CONFIG_CHANGED")
    assert "seed" in row["detail"]
    assert not list(job.path.glob("checkpoints/step_*"))


LONG = (pytest.param(name, marks=pytest.mark.long) for name in ("50% of it", "100%u"))


@pytest.mark.parametrize("name", [*LONG, "ü 'quoted' $HOME %x"])
def test_any_name_of_a_folder(cluster, tmp_path, run, name):
    root = tmp_path / name
    root.mkdir()
    run()  # what is left of its jobs is cancelled
    job = Run(cluster, root)
    job.settings = tuple(word for word in job.settings if not word.startswith("run.root="))
    job.submit("--root", str(root))
    job.await_end("done", "DONE")
    (log,) = job.path.glob(f"submitit/{job.job_ids[0]}_0_log.out")
    assert "hpctrain: start" in log.read_text()


@pytest.mark.long
def test_a_folder_that_is_moved_while_its_job_waits(cluster, run):
    job = run()
    job.submit("+cluster.sbatch.begin=now+1hour")
    old = job.root
    job.root = old.rename(old.with_name("elsewhere"))
    row = job.status()
    assert f"moved from {old}" in row["detail"]
    assert "moved from" in cluster.hpctrain("resume", job.path.name, "--root", job.root, code=2)
    cluster.hpctrain("cancel", job.path.name, "--root", job.root)
    cluster.hpctrain("resume", job.path.name, "--root", job.root)
    cluster.call("scontrol", "update", f"JobId={job.job_ids[-1]}", "StartTime=now")
    job.await_end("done", "DONE")


@pytest.mark.long
def test_a_folder_that_is_moved_under_a_run_at_work(cluster, run, same_weights):
    """No second job beside the first; the first ends with what happened; the run goes on in its new place."""
    job = run("+model.pause_s=0.1")
    job.submit()
    job.await_step(20)
    old = job.root
    job.root = old.rename(old.with_name("elsewhere"))
    said = cluster.hpctrain("resume", job.path.name, "--root", job.root, code=2)
    assert f"moved from {old}" in said
    assert len(job.job_ids) == 1
    row = job.await_end("failed", "STORAGE_ERROR")
    assert "was moved or removed" in row["detail"]
    assert not old.exists()
    cluster.hpctrain("resume", job.path.name, "--root", job.root)
    job.await_end("done", "DONE")
    same_weights(job)
