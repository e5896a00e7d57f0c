"""What is asked of Slurm, and what an answer that does not come means. A fake stands for a command's output only."""

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
