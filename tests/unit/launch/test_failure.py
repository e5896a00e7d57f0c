"""Why an attempt ended, from what ranks and srun left behind: the first that failed counts, of the last start."""

import json

import pytest

from hpctrain.launch.failure import explain
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
    found = explain(attempt(tmp_path, outcomes, failure), text, 1)
    assert (found[0], found[2]) == (reason, rank)
