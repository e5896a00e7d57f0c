"""`hpctrain logs` of a run that has ended, from its files."""

import pytest

from hpctrain import cli
from hpctrain.scheduler.sbatch import START_MARK
from hpctrain.storage.run_state import Submission


def test_the_log_of_a_rank(failed, capsys):
    assert cli.main(["logs"]) == 0
    assert capsys.readouterr().out == "step 1\nout of memory\n"
    assert cli.main(["logs", "net", "--rank", "1"]) == 0
    assert capsys.readouterr().out == "step 1\n"


def test_a_rank_that_the_run_does_not_have(failed, capsys):
    failed.state.beat(ranks=2)
    assert cli.main(["logs", "--rank", "2"]) == 2
    said = "hpctrain: --rank=2: must be ≤ 1: net-0123456789 has 2 ranks\n"
    assert capsys.readouterr() == ("", said)


def test_followed_to_the_end_it_says_how_the_run_ended(failed, capsys):
    assert cli.main(["logs", "-f"]) == 1
    out, err = capsys.readouterr()
    assert out == "step 1\nout of memory\n"
    assert err.splitlines() == [
        "hpctrain: net-0123456789 failed on rank 0: OUT_OF_MEMORY: rank 0 was killed",
        "  | step 1",
        "  | out of memory",
        f"hpctrain: its log: {failed.rank_log(1, 0)}",
    ]


@pytest.fixture
def batch_log(failed):
    """The log of the batch shell of the run's job, whose ranks came up in its first start."""
    failed.submission.write(Submission("karolina", job_ids=("12",)))
    failed.submitit.mkdir()
    (failed.attempt(1) / "token").write_text("slurm-12.0")
    log = failed.submitit / "12_0_log.out"
    log.write_text(f"{START_MARK} 0 of job 12 on n1\n")
    return log


def test_ranks_that_did_not_start_leave_the_batch_shells_log(batch_log, failed, capsys):
    said = f"{START_MARK} 1 of job 12 on n1\nslurm_script: line 9: python: No such file or directory\n"
    batch_log.write_text(batch_log.read_text() + said)
    failed.state.beat(reason="ERROR", detail="the ranks did not start", rank=None)
    assert cli.main(["logs"]) == 0
    out, err = capsys.readouterr()
    assert out == f"step 1\nout of memory\n{said}"
    assert err == f"hpctrain: the log of rank 0 does not tell; from {batch_log}:\n"
    assert cli.main(["logs", "-f"]) == 1
    assert capsys.readouterr().err.splitlines()[-2:] == [
        f"  | {said.splitlines()[1]}", f"hpctrain: its log: {batch_log}",
    ]  # fmt: skip
    # One of several ranks did not.
    (failed.submitit / "12_1_log.out").write_text("execve(): No such file\n")
    failed.state.beat(rank=1)
    assert cli.main(["logs", "--rank", "1"]) == 0
    assert capsys.readouterr().out.endswith("[1]<stderr>:execve(): No such file\n")


def test_an_end_that_no_rank_told_is_told_by_srun(batch_log, failed, capsys):
    batch_log.write_text(batch_log.read_text() + "srun: error: n2: task 1: Killed\n")
    failed.state.beat(reason="RANK_KILLED", detail="rank 1: Killed", rank=1)
    assert cli.main(["logs"]) == 0
    assert capsys.readouterr().out == f"step 1\nout of memory\n{batch_log.read_text()}"
    # The log of the rank at fault stays the one that is shown at the end.
    assert cli.main(["logs", "-f"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"hpctrain: its log: {failed.rank_log(1, 1)}"
    failed.state.beat(rank=None)
    assert cli.main(["logs", "-f"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"hpctrain: its log: {batch_log}"


def test_an_end_that_a_rank_told_needs_no_other_log(batch_log, failed, capsys):
    batch_log.write_text(batch_log.read_text() + "srun: error: n2: task 1: Killed\n")
    failed.claim_failure(1, {"rank": 0, "reason": "OUT_OF_MEMORY", "detail": "rank 0 was killed"})
    assert cli.main(["logs"]) == 0
    assert capsys.readouterr() == ("step 1\nout of memory\n", "")
    failed.state.beat(rank=None)
    assert cli.main(["logs", "-f"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"hpctrain: its log: {failed.rank_log(1, 0)}"


def test_a_batch_shell_that_said_nothing_is_not_shown(batch_log, failed, capsys):
    failed.state.beat(phase="failed", reason="LOST", rank=None)
    assert cli.main(["logs"]) == 0
    assert capsys.readouterr() == ("step 1\nout of memory\n", "")
    # A run that goes on has more to say.
    batch_log.write_text(batch_log.read_text() + "a line\n")
    failed.state.beat(phase="running", reason=None)
    assert cli.main(["logs"]) == 0
    assert capsys.readouterr() == ("step 1\nout of memory\n", "")
