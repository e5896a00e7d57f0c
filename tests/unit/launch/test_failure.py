"""Why an attempt ended, from what ranks and srun left behind: the first that failed counts, of the last start."""

import errno
import json

import pytest

from hpctrain.launch import failure as module
from hpctrain.launch.failure import explain, last_said, settle
from hpctrain.scheduler.sbatch import START_MARK
from hpctrain.storage.run_dir import RunDir, claim_attempt

KILLED = "srun: error: node2: task 1: Killed\nsrun: launch/slurm: _step_signal: Terminating StepId=1.0\n"
EXITED = "srun: error: node1: task 0: Exited with exit code 1\nsrun: error: node2: task 1: Killed\n"


def attempt(folder, outcomes, failure=None):
    run = RunDir(folder)
    number = claim_attempt(run, "token")
    for rank, outcome in enumerate(outcomes):
        run.rank_file(number, rank).write_text(json.dumps({"rank": rank, "outcome": outcome}))
    if failure:
        run.claim_failure(number, {"rank": 0, "reason": failure, "detail": "d"})
    return run


@pytest.mark.parametrize(
    ("outcomes", "failure", "text", "reason", "rank"),
    [
        (["running", "running"], None, KILLED, "RANK_KILLED", 1),
        (["COLLECTIVE_TIMEOUT", "running"], "COLLECTIVE_TIMEOUT", KILLED, "RANK_KILLED", 1),
        (["COLLECTIVE_TIMEOUT", "running"], "COLLECTIVE_TIMEOUT", EXITED, "COLLECTIVE_TIMEOUT", 0),
        (["NAN_PERSISTENT", "running"], "NAN_PERSISTENT", EXITED, "NAN_PERSISTENT", 0),
        (
            ["running", "running"],
            None,
            "slurmstepd: error: Detected 1 oom-kill event(s)\n",
            "OUT_OF_MEMORY",
            0,
        ),
        (
            ["running", "running"],
            None,
            f"{START_MARK} 0 of job 1\n{KILLED}{START_MARK} 1 of job 1\n",
            "RANK_KILLED",
            0,
        ),
        ([], None, "srun: error: Unable to create step\n", "ERROR", None),
    ],
)
def test_the_first_that_failed_counts(tmp_path, outcomes, failure, text, reason, rank):
    found = explain(attempt(tmp_path, outcomes, failure), text)
    assert (found[0], found[2]) == (reason, rank)


FULL = "hpctrain: rank 1: DISK_FULL: checkpoints cannot be written\n"
WAITED = "hpctrain: rank 0: COLLECTIVE_TIMEOUT: a rank did not answer\n"
ABORTED = "process rank 1 with PID 0 on node n exited on signal 6 (Aborted)\n"


@pytest.mark.parametrize(
    ("outcomes", "failure", "text", "code", "reason", "rank"),
    [
        (["running", "running"], None, FULL, 228, "DISK_FULL", 1),
        (["running", "running"], None, f"{WAITED}{FULL}{ABORTED}", 1, "DISK_FULL", 1),
        (["COLLECTIVE_TIMEOUT", "running"], "COLLECTIVE_TIMEOUT", "", 228, "DISK_FULL", None),
        (["running", "running"], None, EXITED.replace("code 1", "code 228"), 137, "DISK_FULL", None),
        (["running", "running"], None, f"{FULL}{START_MARK} 1 of job 1\n{KILLED}", 1, "RANK_KILLED", 1),
        ([], None, "", 228, "DISK_FULL", None),
        (["NAN_PERSISTENT", "running"], "NAN_PERSISTENT", "", 228, "DISK_FULL", None),
    ],
)  # fmt: skip
def test_a_full_disk_is_known_from_a_line_or_the_exit_code(
    tmp_path, outcomes, failure, text, code, reason, rank
):
    found = explain(attempt(tmp_path, outcomes, failure), text, code=code)
    assert (found[0], found[2]) == (reason, rank)


def test_the_log_of_a_rank_is_a_witness_too(tmp_path):
    run = attempt(tmp_path, ["running", "running"])
    run.rank_log(1, 1).write_text(f"step 3\n{FULL}state.json does not say so: [Errno 28]\n")
    assert explain(run, "") == ("DISK_FULL", "checkpoints cannot be written", 1)
    run.state.beat(phase="running", attempt=1)
    assert last_said(run, "") == ("DISK_FULL", "checkpoints cannot be written", 1)
    run.state.starting(host="h")  # the next start: its ranks have said nothing yet
    assert last_said(run, "") is None
    assert last_said(run, f"{WAITED}{START_MARK}\n{FULL}").reason == "DISK_FULL"


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        (FULL, 228, "DISK_FULL"),
        ("", None, "DISK_FULL"),
        ("a word\n", 1, "DISK_FULL"),
        (ABORTED, 1, "RANK_KILLED"),
        (KILLED, 137, "RANK_KILLED"),
    ],
)
def test_an_end_is_told_even_if_it_cannot_be_written(tmp_path, monkeypatch, text, code, reason):
    run = RunDir(tmp_path)
    run.state.beat(phase="requeued", reason="PREEMPTED", step=40)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hpctrain.storage.run_state.replace_text", full)
    monkeypatch.setattr(module, "PATIENCE_S", 0.0)
    state = settle(run, text, code=code)
    assert (state.phase, state.reason, state.step) == ("failed", reason, 40)
    assert run.read_state().phase == "requeued"
