"""A run's folder: attempts after a purge or on a full disk, and what its files say of checkpoints."""

import errno
import json
import shutil
from pathlib import Path

import pytest

from hpctrain.storage.run_dir import RunDir, claim_attempt


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path)


def test_all_ranks_of_a_start_have_its_attempt(run):
    assert [claim_attempt(run, token) for token in ("a", "a", "b", "a", "b")] == [1, 1, 2, 1, 2]


def test_attempts_count_on_after_a_purge(run):
    assert claim_attempt(run, "a") == 1
    run.state.starting(attempt=claim_attempt(run, "b"))
    (run.attempt(2) / "token").unlink()
    assert claim_attempt(run, "c") == 3
    shutil.rmtree(run.path / "attempts")
    assert claim_attempt(run, "d") == 3  # the newest that state.json knows is 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_claim_that_finds_no_room_leaves_nothing(run, monkeypatch, number):
    def full(*_):
        raise OSError(number, "as the test wishes")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="as the test wishes"):
            claim_attempt(run, "a")
    assert list((run.path / "attempts").iterdir()) == []
    assert claim_attempt(run, "a") == 1


def test_a_failure_that_finds_no_room_leaves_nothing(run, monkeypatch):
    attempt = claim_attempt(run, "a")

    def full(*_):
        raise OSError(errno.ENOSPC, "as the test wishes")

    with monkeypatch.context() as patch:
        patch.setattr("hpctrain.storage.run_dir.json.dump", full)
        with pytest.raises(OSError, match="as the test wishes"):
            run.claim_failure(attempt, {"rank": 0})
    assert run.failure(attempt) is None
    assert [path.name for path in run.attempt(attempt).iterdir()] == ["token"]
    assert run.claim_failure(attempt, {"rank": 1})


@pytest.mark.parametrize(
    ("state", "records", "step"),
    [
        ({}, [], 0),
        ({"step": 40, "starts": [0, 0]}, [{"kind": "train", "step": 40}], 0),
        ({"step": 40, "checkpoint": 30}, [], 30),
        ({"step": 40, "checkpoint": None, "starts": [0, 20]}, [], 20),
        ({}, [{"kind": "summary", "step": 10, "reason": "PREEMPTED"}, {"kind": "train", "step": 40}], 10),
        ({"checkpoint": 30}, [{"kind": "summary", "step": 50, "reason": "DONE"}], 50),
    ],
)
def test_which_step_was_saved_is_known_without_the_checkpoints(run, state, records, step):
    run.state_file.write_text(json.dumps(state))
    run.metrics_file.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert run.saved_step() == step


def test_an_attempt_s_own_note_of_a_saved_step_is_enough(run):
    for number in (1, 2):
        run.attempt(number).mkdir(parents=True)
    assert run.saved_step() == 0
    run.note_saved(1, 20)
    assert run.saved_step() == 20
    (run.attempt(2) / "saved.json").write_text('"30')
    assert run.saved_step() == 20, "a damaged one says nothing"
