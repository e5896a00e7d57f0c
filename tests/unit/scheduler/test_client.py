"""What is asked of Slurm, and what an answer that does not come means. A fake stands for a command's output only."""

import os

import pytest

from hpctrain.scheduler import client
from hpctrain.scheduler.answers import Job

SDIAG = (
    "*******************************************************\n"
    "sdiag output at Tue Nov 24 05:35:03 2026 ({now})\n"
    "Data since      Tue Nov 24 00:00:00 2026 (1795478400)\n"
    "*******************************************************\n"
)


@pytest.fixture
def slurm(monkeypatch):
    """Sets what each command says; None: it is missing."""

    def say(**answers):
        def run(command, slurm_conf=None, timeout_s=15.0):
            assert timeout_s <= 5.0, "a step waits for nobody"
            if answers[command[0]] is None:
                raise client.Unreachable(f"{command[0]} is not installed here")
            return answers[command[0]]

        monkeypatch.setattr(client, "run", run)

    return say


def test_what_is_left_is_counted_by_the_controllers_clock(slurm):
    """By this node's clock, an hour ahead, squeue says that nothing is left."""
    slurm(sdiag=SDIAG.format(now=1795498503), squeue="1795500003|INVALID\n")
    assert client.time_left("12_3") == 1500.0


@pytest.mark.parametrize("sdiag", [None, "", "sdiag: nothing to say\n"])
def test_where_the_time_is_not_said_squeue_counts(slurm, sdiag):
    slurm(sdiag=sdiag, squeue="1795500003|1-02:03:04\n")
    assert client.time_left("12") == 93784.0


@pytest.mark.parametrize("squeue", [None, "", "\n", "N/A|NOT_SET\n"])
def test_a_job_that_squeue_does_not_show_has_no_known_end(slurm, squeue):
    slurm(sdiag=SDIAG.format(now=1795498503), squeue=squeue)
    assert client.time_left("12") is None


def test_a_command_that_cannot_be_started_is_no_answer(monkeypatch):
    def run(*args, **kwargs):
        raise BlockingIOError("no process can be made")

    monkeypatch.setattr(client, "run", run)
    assert client.time_left("12") is None


@pytest.mark.parametrize(
    ("job_id", "ended"),
    [("12_3", True), ("12_2", False), ("13_0", None), ("14_1", None), ("12", None), ("9", True)],
)
def test_an_end_needs_evidence(monkeypatch, job_id, ended):
    """The queue shows the others of an array, or the job itself; that it shows nothing of a job is no end."""
    queue = [Job("12_2", "RUNNING"), Job("12_4", "PENDING"), Job("9", "COMPLETED"), Job("14", "RUNNING")]
    monkeypatch.setattr(client, "queue", lambda conf: {job.job_id: job for job in queue})
    monkeypatch.setattr(client, "history", lambda ids, conf: {})
    assert client.Snapshot().has_ended(job_id) is ended


def test_each_cluster_is_asked_once_also_if_it_does_not_answer(monkeypatch):
    asked = []

    def queue(conf):
        asked.append(conf)
        if conf == "/away.conf":
            raise client.Unreachable("no answer")
        return {"9": Job("9", "RUNNING")}

    monkeypatch.setattr(client, "queue", queue)
    queues, away = client.Queues(), client.Snapshot("/away.conf")
    for _ in range(2):
        assert list(queues.of(None)) == ["9"]
        assert queues.of("/away.conf") is None
        with pytest.raises(client.Unreachable, match="no answer"):
            away.job("9")
        assert away.has_ended("9") is None
    assert asked == [None, "/away.conf", "/away.conf"]


AWAY = client.Unreachable("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
RUNNING = "JobId=15 ArrayJobId=12 ArrayTaskId=3\n   JobState=RUNNING Reason=None\n   Requeue=1 Restarts=1 BatchFlag=1\n"
REFUSED = client.Unreachable("Requested operation is presently disabled for job 12_3")


@pytest.mark.parametrize(
    ("told", "asked", "said"),
    [
        ([RUNNING, ""], "show requeue", 0),
        ([AWAY, AWAY, RUNNING, ""], "show show show requeue", 1),
        # The answer to the request was lost: it may have been taken.
        ([RUNNING, AWAY, RUNNING, ""], "show requeue show requeue", 0),
        ([RUNNING, AWAY, RUNNING.replace("RUNNING", "COMPLETING")], "show requeue show", 0),
        # Its node was cut off meanwhile: what runs now is another start, which is not ours to end.
        ([AWAY, RUNNING.replace("Restarts=1", "Restarts=2")], "show show", 1),
        ([AWAY, RUNNING.replace("RUNNING", "PENDING")], "show show", 1),
        (["of another form", ""], "show requeue", 0),
    ],
)
def test_a_job_asks_to_be_requeued_until_slurm_answers(monkeypatch, told, asked, said):
    commands, heard = [], []

    def run(command, *_):
        commands.append(command[1])
        answer = told[len(commands) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(client, "run", run)
    monkeypatch.setattr(client, "RETRY_S", 0.0)
    client.requeue("12_3", 1, heard.append)
    assert " ".join(commands) == asked
    assert len(heard) == said


def test_a_refusal_to_requeue_is_final(monkeypatch):
    def run(command, *_):
        if command[1] == "requeue":
            raise REFUSED
        return RUNNING

    monkeypatch.setattr(client, "run", run)
    with pytest.raises(client.Unreachable, match="presently disabled"):
        client.requeue("12_3", 1)


def test_whether_a_job_is_in_grace_is_asked_until_slurm_answers(monkeypatch):
    told = [AWAY, RUNNING + "   PreemptTime=1795498503\n"]

    def run(command, *_):
        if isinstance(answer := told.pop(0), Exception):
            raise answer
        return answer

    monkeypatch.setattr(client, "run", run)
    monkeypatch.setattr(client, "RETRY_S", 0.0)
    heard = []
    assert client.in_grace("12_3", heard.append)
    assert len(heard) == 1


def test_a_command_that_is_given_up_leaves_nothing_behind(tmp_path, monkeypatch):
    """A site's script in the place of sbatch: the real one would submit the job later."""
    late, script = tmp_path / "late", tmp_path / "sbatch"
    os.mkfifo(late)
    script.write_text(f"#!/bin/sh\n(sleep 5; echo submitted) >{late} &\nwait\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(client, "SBATCH_TIMEOUT_S", 1.0)
    with late.open("r+b", buffering=0):  # so that the script need not wait for a reader
        reader = os.open(late, os.O_RDONLY)
        with pytest.raises(client.Unreachable, match="sbatch did not answer within 1 s"):
            client.submit(tmp_path / "job.sh")
    with os.fdopen(reader) as said:
        assert said.read() == "", "the end of the file: nobody is left who could write"


def test_a_slurm_conf_that_is_not_there_is_said_at_once(tmp_path, monkeypatch):
    """Slurm's own commands would look for it for a minute."""
    monkeypatch.setattr(client.subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    with pytest.raises(
        client.Unreachable, match=r"there is no .*/nosuch.conf, which SLURM_CONF or cluster.slurm_conf"
    ):
        client.run(["squeue"], str(tmp_path / "nosuch.conf"))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "nosuch.conf"))
    with pytest.raises(client.Unreachable, match="there is no"):
        client.submit(tmp_path / "script")
