"""Which logs belong to the newest start, and what of them."""

import os

import pytest

from hpctrain.launch import launcher_logs
from hpctrain.scheduler.sbatch import START_MARK
from hpctrain.storage.run_dir import RunDir, claim_attempt
from hpctrain.storage.run_state import Submission

BATCH = f"{START_MARK} 0 of job 12 on n1\nold\n{START_MARK} 1 of job 12 on n1\nnew\n"
NEW = f"{START_MARK} 1 of job 12 on n1\nnew\n"


@pytest.fixture
def run(tmp_path):
    run = RunDir(tmp_path)
    run.submitit.mkdir()
    return run


def test_all_ranks_of_a_job_in_one_text(run):
    assert launcher_logs.text(run, "12") == ""
    for name, text in {
        "12_0_log.out": BATCH, "12_1_log.out": "one\nmore\n", "12_10_log.out": "ten\n", "12_2_log.err": "two",
        "12_0_log.err": "zero\n", "12_3_log.out": "", "123_1_log.out": "another job\n",
    }.items():  # fmt: skip
        (run.submitit / name).write_text(text)
    (run.path / "launcher.log").write_text(f"{START_MARK}\nof a launcher here\n")
    ranks = "zero\n[1]<stderr>:one\n[1]<stderr>:more\n[2]<stderr>:two\n[10]<stderr>:ten\n"
    assert launcher_logs.text(run, "12") == NEW + ranks
    assert launcher_logs.text(run, None) == f"{START_MARK}\nof a launcher here\n"
    # A background job of this machine is not a batch shell.
    (run.submitit / "7_0_log.out").write_text("submitit\n")
    assert launcher_logs.text(run, "7") == f"submitit\n{START_MARK}\nof a launcher here\n"


def test_of_thousands_of_ranks_the_first_are_read(run):
    for rank in range(1, 100):
        (run.submitit / f"12_{rank}_log.out").write_text("x\n")
    assert launcher_logs.text(run, "12").splitlines()[-1] == "[64]<stderr>:x"


def test_the_younger_log_is_the_newest(run):
    assert launcher_logs.newest(run) is None
    launcher, batch = run.path / "launcher.log", run.submitit / "12_0_log.out"
    launcher.write_text(f"{START_MARK}\nhere\n")
    assert launcher_logs.newest(run) == (launcher, f"{START_MARK}\nhere\n")
    run.submission.write(Submission("karolina", job_ids=("10", "11", "12")))
    assert launcher_logs.newest(run) == (launcher, f"{START_MARK}\nhere\n")
    batch.write_text(BATCH)
    os.utime(launcher, (1, 1))
    assert launcher_logs.newest(run) == (batch, NEW)
    os.utime(batch, (0, 0))
    assert launcher_logs.newest(run) == (launcher, f"{START_MARK}\nhere\n")


def test_the_attempt_of_a_start(run):
    assert launcher_logs.attempt(run, NEW) is None
    for token in ("slurm-12.0", "slurm-12.1", "slurm-13.0"):
        claim_attempt(run, token)
    assert launcher_logs.attempt(run, NEW) == 2
    assert launcher_logs.attempt(run, BATCH) == 1
    assert launcher_logs.attempt(run, NEW.replace("start 1", "start 2")) is None
    # The text does not say whose it is.
    assert launcher_logs.attempt(run, "", "12") == 2
    assert launcher_logs.attempt(run, "", "14") is None
    assert launcher_logs.attempt(run, "", "20_3") == 3
    claim_attempt(run, "slurm-12_3.1")
    assert launcher_logs.attempt(run, NEW.replace("job 12", "job 12_3")) == 4
    assert launcher_logs.attempt(run, NEW.replace("job 12", "job 12_4")) is None
    claim_attempt(run, "local-here-1-ab")
    assert launcher_logs.attempt(run, f"{START_MARK}\n") == 5
    assert launcher_logs.attempt(run, NEW) == 2
    (run.attempt(5) / "token").unlink()
    assert launcher_logs.attempt(run, NEW) == 2


def test_the_end_of_a_log(tmp_path):
    log = tmp_path / "log"
    assert launcher_logs.tail(log) == ""
    log.write_text("one\ntwo\nthree\n")
    assert launcher_logs.tail(log) == "one\ntwo\nthree\n"
    assert launcher_logs.tail(log, 14) == "one\ntwo\nthree\n"
    assert launcher_logs.tail(log, 12) == "two\nthree\n"
    log.write_bytes(b"\xff\n")
    assert launcher_logs.tail(log) == "�\n"


def test_a_start_that_said_nothing():
    assert not launcher_logs.said_something("")
    assert not launcher_logs.said_something(f"{START_MARK} 0 of job 12 on n1\n\n")
    assert launcher_logs.said_something(NEW)


FIRST, SECOND, RANK = f"{START_MARK} 0 of job 12 on n1", f"{START_MARK} 1 of job 12 on n1", "[1]<stderr>:old"


@pytest.mark.parametrize(
    ("said", "lines"),
    [
        (f"{SECOND}\none\n{RANK}\ntwo\n", f"{SECOND}\none\ntwo"),
        (f"{FIRST}\none\n{RANK}\ntwo\n", f"{FIRST}\none\n{RANK}\ntwo\n"),
        (f"one\n{RANK}\n", f"one\n{RANK}\n"),
        ("", ""),
    ],
)
def test_of_a_job_that_was_started_again_ranks_logs_may_be_older(said, lines):
    assert launcher_logs.of_this_start(said) == lines


def test_of_a_rank_s_long_log_the_end_is_read(run):
    (run.submitit / "12_1_log.out").write_text("x" * 99 + "\n" + "y" * 3998 + "\n")
    assert launcher_logs.text(run, "12") == f"[1]<stderr>:{'y' * 3998}\n"


def test_a_file_that_names_no_rank_is_the_first_s(run):
    (run.submitit / "12_x_log.out").write_text("early\n")
    (run.submitit / "12_1_log.out").write_text("one\n")
    assert launcher_logs.text(run, "12") == "early\n[1]<stderr>:one\n"


def test_a_job_whose_logs_were_removed_has_its_launcher_s(run):
    run.submitit.rmdir()
    (run.path / "launcher.log").write_text(f"{START_MARK}\nhere\n")
    assert launcher_logs.text(run, "12") == f"{START_MARK}\nhere\n"
