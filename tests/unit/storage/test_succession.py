"""Whose word on a run counts, by attempts, terms and submissions."""

import dataclasses

import pytest

from hpctrain.storage import lock
from hpctrain.storage.run_dir import RunDir, claim_attempt
from hpctrain.storage.run_state import Submission
from hpctrain.storage.succession import superseded


@pytest.fixture
def run(tmp_path):
    made = RunDir(tmp_path / "r")
    made.path.mkdir()
    return made


def elsewhere(term, **changes):
    """Makes the owner of a term a process of another machine."""
    term._write(host="far", machine="another", boot="b 1", pid=1, **changes)


def test_nobody_was_there_before(run):
    assert superseded(run, None, None) is None
    assert superseded(run, claim_attempt(run, "a"), "7") is None


def test_a_later_attempt_knows_better(run):
    first, _ = claim_attempt(run, "a"), claim_attempt(run, "b")
    assert superseded(run, first, "7") == "attempt 2"
    assert superseded(run, 2, "7") is None


def test_who_holds_the_term_is_not_superseded_by_one_that_was_refused(run):
    first, second = claim_attempt(run, "a"), claim_attempt(run, "b")
    term = lock.acquire(run.checkpoints, first)
    elsewhere(term)
    assert superseded(run, first, None) is None
    assert superseded(run, second, None) == "attempt 1 on far", "it may still be at work"
    assert superseded(run, None, None) == "attempt 1 on far", "none of its ranks came up"


@pytest.mark.parametrize(
    ("said", "who"), [(True, None), (False, "attempt 1 on far"), (None, "attempt 1 on far")]
)
def test_slurm_knows_whether_an_owner_has_ended(run, said, who):
    term = lock.acquire(run.checkpoints, claim_attempt(run, "a"))
    elsewhere(term, job_id="7")
    second = claim_attempt(run, "b")
    assert superseded(run, second, "8", lambda job_id: said) == who


def test_an_attempt_that_was_given_up_says_nothing_once_another_has_the_term(run):
    zombie, later = claim_attempt(run, "a"), claim_attempt(run, "b")
    elsewhere(lock.acquire(run.checkpoints, zombie), ended=True)
    lock.acquire(run.checkpoints, later).release()
    assert superseded(run, zombie, None) == f"attempt 2 on {lock.this_process(0).host}"
    assert superseded(run, later, None) is None


def test_a_job_of_an_earlier_submission_says_nothing(run):
    attempt = claim_attempt(run, "a")
    term = lock.acquire(run.checkpoints, attempt)
    before = Submission("c", "t").with_jobs(["7"])
    run.submission.write(before)
    assert superseded(run, attempt, "7") is None
    run.submission.write(before.with_jobs(["8"]))
    assert superseded(run, attempt, "7") == "a later submission"
    run.submission.write(dataclasses.replace(before, open=True))
    assert superseded(run, attempt, "7") == "a later submission", "somebody is about to submit"
    assert term.stands()


def test_a_damaged_term_is_nobody_s_word(run):
    attempt = claim_attempt(run, "a")
    lock.acquire(run.checkpoints, attempt)
    (run.checkpoints / "terms" / "1.json").write_text("{}")
    assert "1.json is damaged" in superseded(run, attempt, None)


def test_a_process_of_this_machine_that_has_ended_leaves_the_run_to_the_next(run, monkeypatch):
    first, second = claim_attempt(run, "a"), claim_attempt(run, "b")
    term = lock.acquire(run.checkpoints, first)
    assert superseded(run, second, None) == f"attempt 1 on {term.owner.host}", "it lives: this very process"
    assert superseded(run, None, None) == f"attempt 1 on {term.owner.host}"
    term._write(started="1")
    assert superseded(run, second, None) is None
    assert superseded(run, None, None) is None


def test_a_job_s_own_earlier_start_is_over(run, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    term = lock.acquire(run.checkpoints, claim_attempt(run, "a"))
    elsewhere(term, job_id="7", restarts=0)
    assert superseded(run, claim_attempt(run, "b"), "7") is None


def test_who_asks_is_known_by_its_attempt(run, monkeypatch):
    asked = []
    monkeypatch.setattr(lock, "has_ended", lambda owner, mine, job_ended: asked.append(mine.attempt))
    elsewhere(lock.acquire(run.checkpoints, claim_attempt(run, "a")))
    for attempt in (claim_attempt(run, "b"), None):
        superseded(run, attempt, None)
    assert asked == [2, 0]
