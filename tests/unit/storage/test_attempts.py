"""What the ranks of an attempt said of themselves, and what is passed over."""

import json
import os

from hpctrain.storage import attempts


def test_a_rank_or_a_failure_that_is_damaged_says_nothing(run):
    run.begin(r0="running")
    os.mkfifo(run.rank_file(1, 1))
    run.rank_file(1, 2).write_text('{"rank": "2", "outcome": "running"}')
    os.mkfifo(run.attempt(1) / "failure.json")
    assert [who["rank"] for who in run.rank_files(1)] == [0]
    assert run.failure(1) is None


def test_an_attempt_s_token_that_is_a_pipe_is_passed_over(run):
    run.begin(1)
    (run.attempt(1) / "token").unlink()
    os.mkfifo(run.attempt(1) / "token")
    assert run.attempt_of("local-x") is None


def test_attempts_are_in_the_order_of_their_numbers(run):
    assert attempts.numbers(run.path) == []
    for number in (10, 9, 1):
        run.begin(number)
    (run.path / "attempts" / "notes").mkdir()
    assert attempts.numbers(run.path) == [1, 9, 10]


def test_each_attempt_has_its_own_token(run):
    run.begin(1, "slurm-7.0")
    run.begin(2, "slurm-8.0")
    assert [attempts.token(run.path, number) for number in (1, 2, 3)] == ["slurm-7.0", "slurm-8.0", None]
    (run.attempt(1) / "token").write_bytes(b"local-\xff")
    assert attempts.token(run.path, 1) == "local-\ufffd"


def test_the_ranks_are_in_order_and_damaged_ones_left_out(run):
    run.begin(1, **{f"r{rank}": "DONE" for rank in (10, 2, 0)})
    run.rank_file(1, 3).write_text("{")
    run.begin(2, r1="running")
    assert [who["rank"] for who in attempts.ranks(run.path, 1)] == [0, 2, 10]
    assert attempts.ranks(run.path, 2) == [
        {"rank": 1, "outcome": attempts.RUNNING, "host": "n1", "time": 1.0}
    ]
    assert attempts.ranks(run.path, 3) == []


def test_a_failure_is_in_the_words_of_the_rank(run):
    run.begin(1)
    assert attempts.failure(run.path, 1) is None
    said = {"rank": 1, "reason": "ERROR", "detail": "it fell", "host": "n1"}
    (run.attempt(1) / "failure.json").write_text(json.dumps(said))
    assert attempts.failure(run.path, 1) == said


def test_each_attempt_notes_the_step_that_it_saved(run):
    for number in (1, 2, 3):
        run.begin(number)
    (run.attempt(1) / "saved.json").write_text("20")
    (run.attempt(2) / "saved.json").write_text('"30"')  # damaged
    assert [attempts.saved(run.path, number) for number in (1, 2, 3, 4)] == [20, None, None, None]


def test_processes_that_others_could_have_named_are_left_out(run):
    """They would get signals; to be shown, they count."""
    run.begin(1, r0="running", r1="running")
    run.rank_file(1, 1).chmod(0o666)
    assert [who["rank"] for who in attempts.ranks(run.path, 1)] == [0, 1]
    assert [who["rank"] for who in attempts.ranks(run.path, 1, own=True)] == [0]
