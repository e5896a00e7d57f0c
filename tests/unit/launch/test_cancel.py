"""What a request to stop does, on the word of Slurm and not of the run's own files."""

import json

import pytest

from hpctrain.launch.cancel import Answer, cancel
from hpctrain.scheduler import client
from hpctrain.scheduler.answers import Job
from hpctrain.storage.search import locate


@pytest.fixture
def queue(monkeypatch):
    """What squeue answers; scancel takes jobs out of it."""
    jobs = {}
    monkeypatch.setattr(client, "queue", lambda conf: dict(jobs))
    monkeypatch.setattr(client, "history", lambda *_: {})
    monkeypatch.setattr(client, "cancel", lambda ids, conf: [jobs.pop(job_id) for job_id in ids])
    return jobs


def a_run(folder, phase, submission):
    run = locate(str(folder), "s", "net-1")
    run.create({})
    run.state_file.write_text(json.dumps({"phase": phase, "heartbeat": 0.0}))
    if submission:
        run.submission_file.write_text(json.dumps({"cluster": "c", "job_ids": ["7"]}))
    return run


@pytest.mark.parametrize("phase", ["done", "failed", "cancelled", "running"])
@pytest.mark.parametrize(
    ("state", "words"), [("RUNNING", "asked to save and stop"), ("PENDING", "cancelled while it waited")]
)
def test_a_job_that_lives_is_cancelled_whatever_the_state_says(tmp_path, queue, phase, state, words):
    """The batch shell of a run that is done may hang; a backup may have brought back another state."""
    queue |= {"7": Job("7", state), "8": Job("8", "RUNNING")}
    run = a_run(tmp_path, phase, submission=True)
    assert cancel(run) == Answer(words)
    assert set(queue) == {"8"}
    assert phase == "running" or run.read_state().phase == phase, "an end stays the end that it was"


@pytest.mark.parametrize("submission", [True, False])
def test_a_run_that_is_done_and_has_no_job_has_ended(tmp_path, queue, submission):
    run = a_run(tmp_path, "done", submission)
    assert cancel(run) == Answer("has ended already (done)")
    assert not run.cancel_file.exists()
