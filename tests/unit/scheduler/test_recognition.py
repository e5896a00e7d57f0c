"""Which jobs are a run's: its number and its token, in whatever order clusters and folders come and go."""

import shutil

import pytest

from hpctrain.scheduler.answers import Job, one_of_each_array
from hpctrain.scheduler.recognition import (
    comment_of,
    has_left_its_array,
    is_newest,
    is_of,
    jobs_of,
    moved_from,
    original,
    perhaps_of,
)
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Submission


@pytest.fixture
def run(tmp_path):
    made = RunDir(tmp_path / "s" / "lenet-1")
    made.path.mkdir(parents=True)
    return made


MINE = comment_of("lenet-1", "t1")
KNOWN = Submission("c", "t1").with_jobs(["27"], MINE, "lenet-1")


@pytest.mark.parametrize(("submission", "job", "mine"), [
    (KNOWN, Job("27", "RUNNING", "", MINE, "lenet-1"), True),
    (KNOWN, Job("27", "RUNNING", "", comment_of("lenet-1", "t2"), "lenet-1"), False),
    (KNOWN, Job("27", "RUNNING", "", "somebody's", "lenet-1"), False),
    # Accounting that keeps no comments still has names.
    (KNOWN, Job("27", "COMPLETED", "", "", "lenet-1"), True),
    (KNOWN, Job("27", "COMPLETED", "", "", "bash"), False),
    (KNOWN, Job("27", "COMPLETED"), True),
    # Of version 0.1.0, which noted numbers alone.
    (Submission("c", job_ids=("27",)), Job("27", "RUNNING", "", comment_of("lenet-1", "any")), True),
    (Submission("c", job_ids=("27",)), Job("27", "RUNNING", "", comment_of("vgg-2", "any")), False),
    (Submission("c", job_ids=("27",)), Job("27", "RUNNING", "", "hpctrain:study:12ab"), True),
    (Submission("c", job_ids=("27",)), Job("27", "RUNNING"), True),
])  # fmt: skip
def test_a_job_is_its_number_and_its_token(run, submission, job, mine):
    assert is_of(run, submission, job) is mine


def test_jobs_are_returned_oldest_first_and_others_not(run):
    two = KNOWN.with_jobs(["5"], MINE)  # numbers began again
    jobs = {
        j.job_id: j
        for j in (Job("5", "PENDING", "", MINE), Job("27", "FAILED", "", MINE), Job("8", "RUNNING"))
    }
    assert [job.job_id for job in jobs_of(run, two, jobs)] == ["27", "5"]
    jobs["27"] = Job("27", "RUNNING", "", "another's")
    assert [job.job_id for job in jobs_of(run, two, jobs)] == ["5"]


def test_a_job_whose_number_was_never_noted_is_known_by_its_token(run):
    lost = Submission("c", "t2", ("27",), open=True, known_as=KNOWN.known_as)
    jobs = {n: Job(n, "PENDING", "", comment_of("lenet-1", "t2")) for n in ("31", "30")} | {
        "32": Job("32", "RUNNING", "", comment_of("lenet-1", "t3")),
        "27": Job("27", "COMPLETED", "", MINE),
    }
    assert [job.job_id for job in jobs_of(run, lost, jobs)] == ["27", "30", "31"]


def test_a_copy_is_not_the_original(run, tmp_path):
    submission = Submission("c", "t1", path=str(run.path)).with_jobs(["27"], MINE)
    jobs = {"27": Job("27", "RUNNING", "", MINE)}
    copy = RunDir(tmp_path / "copy" / "lenet-1")
    shutil.copytree(run.path, copy.path)
    assert original(copy, submission) == run.path
    assert jobs_of(copy, submission, jobs) == []
    assert original(run, submission) is None


def test_a_folder_that_was_moved_or_is_seen_by_another_path_is_the_original(run, tmp_path):
    submission = Submission("c", "t1", path=str(run.path)).with_jobs(["27"], MINE)
    (tmp_path / "link").symlink_to(tmp_path / "s")
    assert original(RunDir(tmp_path / "link" / "lenet-1"), submission) is None
    moved = RunDir(tmp_path / "elsewhere")
    run.path.rename(moved.path)
    assert original(moved, submission) is None
    assert original(moved, Submission("c", job_ids=("27",))) is None, "not said"


STUDY = "hpctrain:study:12ab"
TASK = Submission("c", study=True).with_jobs(["12_3"], STUDY, "sweep-s")


@pytest.mark.parametrize(
    ("submission", "jobs", "left"),
    [
        (TASK, [Job("12_2", "RUNNING", "", STUDY, "sweep-s")], True),
        (TASK, [Job("12_2", "COMPLETED", "", "", "sweep-s")], True),
        (TASK, [Job("12_2", "RUNNING", "", "hpctrain:study:34cd", "sweep-s")], False),
        (TASK, [Job("12", "RUNNING", "", STUDY), Job("121_2", "RUNNING", "", STUDY)], False),
        (TASK, [], False),
        (Submission("c", job_ids=("12_3",)), [Job("12_0", "RUNNING", "", "(null)", "wrap")], True),
        (KNOWN, [Job("27_0", "RUNNING", "", MINE, "lenet-1")], False),
        (Submission("c", open=True), [Job("12_0", "RUNNING")], False),
    ],
)
def test_slurm_shows_the_others_of_an_array_and_not_the_task(run, submission, jobs, left):
    assert has_left_its_array(run, submission, one_of_each_array(jobs)) is left


def test_where_a_run_was_when_it_was_submitted(run, tmp_path):
    noted = Submission("c", "t1", path=str(run.path))
    assert moved_from(run, noted) is None
    assert moved_from(run, Submission("c", "t1")) is None, "not said"
    moved = RunDir(tmp_path / "elsewhere")
    run.path.rename(moved.path)
    assert moved_from(moved, noted) == str(run.path)
    (tmp_path / "s" / "lenet-1").symlink_to(moved.path)
    assert moved_from(moved, noted) is None, "a link leads there"


def test_a_task_that_its_array_is_shown_without_has_ended(run):
    comment = "hpctrain:study:12ab"
    task = Submission("c", study=True).with_jobs(["12_3"], comment, "sweep-s")
    other = {"12": Job("12_0", "RUNNING", "", comment, "sweep-s")}
    assert has_left_its_array(run, task, other)
    assert not has_left_its_array(run, task, {"13": other["12"]})
    assert not has_left_its_array(run, task, {"12": Job("12_0", "RUNNING", "", "another's", "x")})
    assert not has_left_its_array(run, Submission("c", study=True), other)
    plain = Submission("c", "t").with_jobs(["12"], MINE, "lenet-1")
    assert not has_left_its_array(run, plain, {"12": Job("12_0", "RUNNING", "", MINE, "lenet-1")})


def test_the_newest_submission_is_known_by_its_token_or_by_run_and_folder_if_the_file_is_damaged(
    run, tmp_path
):
    for folder in (run.path, tmp_path / "other" / "lenet-1"):
        (folder / "submitit").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "s")

    def job(number, run_id, token, place):
        command = f"{tmp_path}/{place}/submitit/submission_file_1.sh" if place else "/home/u/train.sbatch"
        return Job(number, "PENDING", "", comment_of(run_id, token), run_id, command)

    mine, older = job("1", "lenet-1", "t1", "s/lenet-1"), job("2", "lenet-1", "t0", "link/lenet-1")
    theirs, same_id = job("3", "lenet-12", "t1", "s/lenet-12"), job("4", "lenet-1", "t2", "other/lenet-1")
    moved, own_script = job("5", "lenet-1", "t3", "gone/lenet-1"), job("6", "lenet-1", "t4", None)
    all_of_them = (mine, older, theirs, same_id, moved, own_script)
    known, damaged = Submission("c", "t1"), Submission("c", open=True, damage="empty")
    assert [is_newest(run, known, job) for job in all_of_them] == [True] + 5 * [False]
    assert [is_newest(run, damaged, job) for job in all_of_them] == [True, True] + 4 * [False]
    jobs = {job.job_id: job for job in all_of_them}
    assert [job.job_id for job in jobs_of(run, damaged, jobs)] == ["1", "2"]
    assert perhaps_of(run, known, jobs) == []
    assert perhaps_of(run, damaged, jobs) == [moved, own_script]
