"""What status makes of a run's own word and Slurm's."""

import json
import os

import pytest

from hpctrain.launch import status
from hpctrain.launch.status import Row
from hpctrain.scheduler import client
from hpctrain.scheduler.answers import Job
from hpctrain.storage.run_dir import locate


def row(phase, age_s=1.0, reason=None):
    return Row("s", "r", phase, reason, None, 1, 5, 0.5, {}, "7", None, age_s)


@pytest.mark.parametrize(
    ("own", "job", "phase", "reason"),
    [
        (row("submitted"), Job("7", "PENDING", "Resources"), "submitted", "Resources"),
        (row("running", 99), Job("7", "PENDING", "BeginTime"), "requeued", "BeginTime"),
        (row("submitted"), Job("7", "RUNNING"), "starting", None),
        (row("running"), Job("7", "RUNNING"), "running", None),
        (row("running"), Job("7", "CANCELLED"), "cancelled", "CANCELLED"),
        (row("running", 99), Job("7", "NODE_FAIL"), "failed", "NODE_FAILURE"),
        (row("running"), Job("7", "TIMEOUT"), "failed", "TIME_LIMIT"),
        (row("running"), Job("7", "OUT_OF_MEMORY"), "failed", "OUT_OF_MEMORY"),
        (row("running", 99), Job("7", "COMPLETED"), "failed", "LOST"),
        (row("running", 2), Job("7", "COMPLETED"), "running", None),
        # What Slurm does not know, or says in a word of its own, is not an end.
        (row("running", 99), None, "running", None),
        (row("running", 2), None, "running", None),
        (row("requeued", 99, "TERMINATED"), None, "requeued", "TERMINATED"),
        (row("submitted", 99), None, "submitted", None),
        (row("running", 99), Job("7", "NEVER_HEARD"), "running", None),
        (row("running", None), Job("7", "COMPLETED"), "failed", "LOST"),
        (row("requeued", 99, "TIME_LIMIT"), Job("7", "COMPLETED"), "interrupted", "TIME_LIMIT"),
        (row("requeued", 2, "TERMINATED"), Job("7", "COMPLETING"), "starting", "TERMINATED"),
        (row("running"), Job("7", "PREEMPTED"), "interrupted", "PREEMPTED"),
        # A run's own end stays.
        (row("done", reason="DONE"), Job("7", "RUNNING"), "done", "DONE"),
        (row("failed", reason="ERROR"), Job("7", "PENDING"), "failed", "ERROR"),
        (row("done", reason="DONE"), None, "done", "DONE"),
    ],
)
def test_a_run_s_word_and_slurm_s_are_joined(own, job, phase, reason):
    settled = status.settle(own, job)
    assert (settled.phase, settled.reason) == (phase, reason)


@pytest.mark.parametrize(
    ("phase", "age_s", "ended", "reason"),
    [
        ("submitted", 99, "cancelled", "CANCELLED"),
        ("requeued", 99, "interrupted", None),
        ("running", 99, "failed", "LOST"),
        ("running", None, "failed", "LOST"),
        ("running", 2, "running", None),
        ("done", 99, "done", None),
    ],
)
def test_a_task_that_has_left_its_array_has_ended(phase, age_s, ended, reason):
    settled = status._settle_forgotten(row(phase, age_s))
    assert (settled.phase, settled.reason) == (ended, reason)


def test_what_accounting_alone_shows_as_running_is_lost_after_a_day():
    job = Job("7", "RUNNING")
    early, late = (status.settle(row("running", age_s), job, queued=False) for age_s in (3600.0, 90000.0))
    assert (early.phase, early.scheduler) == ("running", "unknown")
    assert early.detail == "accounting lists job 7 as RUNNING, but it is not in the queue"
    assert (late.phase, late.reason) == ("failed", "LOST")
    assert status.settle(row("running", None), job, queued=False).phase == "running", "no clock tells"


def test_who_can_end_what_slurm_knows_nothing_of_is_told_how():
    settled = status.settle(row("running", 99), None)
    assert settled.scheduler == "unknown"
    assert settled.detail == (
        "Slurm knows nothing of job 7; if you know that it has ended: hpctrain checkpoints r --unlock"
    )


def a_run(folder, **state):
    run = locate(str(folder), "s", "r")
    run.path.mkdir(parents=True)
    run.config_file.touch()
    run.submission_file.write_text(json.dumps({"cluster": "c", "job_ids": ["7"], "slurm_conf": "/c.conf"}))
    run.state_file.write_text(json.dumps({"phase": "running", "heartbeat": 0.0} | state))
    return run


def test_who_waits_for_a_run_hears_of_its_job_and_of_its_end(tmp_path, monkeypatch):
    run, said = a_run(tmp_path, phase="submitted"), []
    os.utime(run.state_file, (0, 0))
    told = iter([Job("7", "PENDING", "Priority")] * 2 + [Job("7", "CANCELLED")])
    monkeypatch.setattr(status.client, "queue", lambda conf: {"7": next(told)})
    monkeypatch.setattr(status.Watch, "ASK_S", 0.0)
    watch = status.Watch(run, said.append)
    assert [watch.ended() for _ in range(4)] == [False, False, True, True]
    assert said == ["r: submitted: waiting: Priority"]
    assert run.read_state().phase == "cancelled"


def test_a_slurm_that_does_not_answer_is_no_end(tmp_path, monkeypatch):
    run = a_run(tmp_path)

    def silent(conf):
        raise client.Unreachable("no answer")

    monkeypatch.setattr(status.client, "queue", silent)
    (row,) = status.rows(tmp_path)
    assert (row.phase, row.scheduler) == ("running", "unreachable")
    assert run.read_state().phase == "running"


def test_an_end_that_slurm_alone_knew_is_kept(tmp_path, monkeypatch):
    run = a_run(tmp_path)
    monkeypatch.setattr(status.client, "queue", lambda conf: {"7": Job("7", "NODE_FAIL")})
    assert status.rows(tmp_path)[0].reason == "NODE_FAILURE"
    monkeypatch.setattr(status.client, "queue", lambda conf: {})
    assert status.rows(tmp_path)[0].reason == "NODE_FAILURE"
    assert run.read_state().phase == "failed"


WORD = "hpctrain: rank 1: DISK_FULL: checkpoints cannot be written\n"


@pytest.mark.parametrize(
    ("own", "job", "log", "phase", "reason"),
    [
        ("running", Job("7", "FAILED"), WORD, "failed", "DISK_FULL"),
        ("requeued", Job("7", "FAILED"), f"hpctrain: start 1 of job 7 on n\n{WORD}", "failed", "DISK_FULL"),
        (
            "requeued",
            Job("7", "FAILED"),
            f"{WORD}hpctrain: start 1 of job 7 on n\nsrun: error\n",
            "interrupted",
            None,
        ),
        ("starting", Job("7", "FAILED"), WORD.replace("DISK_FULL", "IMPORT_ERROR"), "failed", "IMPORT_ERROR"),
        ("requeued", Job("7", "PREEMPTED"), WORD.replace("DISK_FULL", "ERROR"), "interrupted", "PREEMPTED"),
        ("running", Job("7", "NODE_FAIL"), WORD, "failed", "NODE_FAILURE"),
        ("running", Job("7", "FAILED"), None, "failed", "ERROR"),
    ],
)
def test_an_end_that_could_not_be_written_is_found_in_the_log(
    tmp_path, monkeypatch, own, job, log, phase, reason
):
    run = a_run(tmp_path, phase=own)
    if log is not None:
        run.submitit.mkdir()
        (run.submitit / "7_0_log.out").write_text(log)
    monkeypatch.setattr(status.client, "queue", lambda conf: {"7": job} if job else {})
    monkeypatch.setattr(status.client, "history", lambda *_: {})
    (found,) = status.rows(tmp_path)
    assert (found.phase, found.reason) == (phase, reason)
    assert (run.read_state().phase, run.read_state().reason) == (phase, reason)


@pytest.mark.parametrize(("log", "reason"), [(WORD, "DISK_FULL"), ("mpirun: lost\n", "ERROR"), ("", "LOST")])
def test_a_local_run_that_could_not_write_its_end(tmp_path, log, reason):
    run = a_run(tmp_path)
    run.submission_file.unlink()
    os.utime(run.state_file, (0, 0))
    (run.path / "launcher.log").write_text(log)
    (found,) = status.rows(tmp_path)
    assert found.reason == reason
