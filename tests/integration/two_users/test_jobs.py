"""A job runs only what its submitter wrote: attacks by alice on bob's jobs."""

import json
import os
import shutil

import pytest

from tests.people import ALICE, BOB, TEAM, evil


@pytest.fixture
def job(bob, shared):
    """Bob's submitted job, as a folder of submitit's: what it calls writes who ran it."""
    run = bob.makes_run(shared)
    (run / "submitit").mkdir(mode=0o700)
    script = (
        "import os, sys; from submitit.core.utils import DelayedSubmission\n"
        "os.umask(0o077); delayed = DelayedSubmission(os.system, f'echo bob >> {sys.argv[2]}')\n"
        "delayed.set_timeout(1, 1); delayed.dump(sys.argv[1])"
    )
    bob.give(run / "submitit")
    bob.python("-c", script, run / "submitit" / "run.pkl", bob.home / "ran")
    (run / "submitit" / "5_submitted.pkl").symlink_to("run.pkl")
    return run / "submitit"


BEGIN = (
    "import os, sys; os.environ |= {'SUBMITIT_EXECUTOR': 'local', 'SUBMITIT_LOCAL_JOB_ID': '5',"
    " 'SUBMITIT_LOCAL_GLOBALID': '0'}\n"
    "from hpctrain.scheduler import checked\n"
)


def begin(bob, job, before="", code=0):
    script = f"{BEGIN}{before}\nsys.exit(checked.main())"
    return bob.start("-c", script, job, cwd="/").communicate(timeout=60)[1]


def ran(bob):
    return (bob.home / "ran").read_text() if (bob.home / "ran").exists() else None


def test_a_job_runs_its_submitter_s_pickle(bob, job):
    begin(bob, job)
    assert ran(bob) == "bob\n"


def test_a_planted_pickle_would_leave_its_mark(bob):
    (bob.home / "evil.pkl").write_bytes(evil(bob.home / "marker"))
    bob.python("-c", "import pickle; pickle.load(open('evil.pkl', 'rb'))")
    assert (bob.home / "marker").exists()


def replaced_study(alice, job, marker):
    """Alice puts a study of hers in the place of bob's: the group may rename in run.root."""
    study = job.parents[1]
    away = study.with_name("away")
    study.rename(away)
    shutil.copytree(away, study, symlinks=True)
    (study / job.parent.name / "submitit" / "run.pkl").write_bytes(evil(marker))
    for path in (study, *study.rglob("*")):
        os.chown(path, ALICE, ALICE, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(0o755)


def linked_study(alice, job, marker):
    replaced_study(alice, job, marker)
    study = job.parents[1]
    study.rename(study.with_name("hers"))
    study.symlink_to("hers")


def open_folder(alice, job, marker):
    """Bob's own mistake: the group may write where his pickle is."""
    job.chmod(0o770)
    os.chown(job, BOB, TEAM)
    (job / "run.pkl").unlink()
    (job / "run.pkl").write_bytes(evil(marker))
    os.chown(job / "run.pkl", ALICE, ALICE)


def open_pickle(alice, job, marker):
    (job / "run.pkl").write_bytes(evil(marker))
    (job / "run.pkl").chmod(0o666)


def pickle_elsewhere(alice, job, marker):
    hers = alice.home / "evil.pkl"
    hers.write_bytes(evil(marker))
    (job / "5_submitted.pkl").unlink()
    (job / "5_submitted.pkl").symlink_to(hers)


@pytest.mark.parametrize("attack", [replaced_study, linked_study, open_folder, open_pickle, pickle_elsewhere])
def test_a_pickle_that_others_could_have_put_there_is_not_loaded(alice, bob, job, attack):
    marker = bob.home / "marker"
    attack(alice, job, marker)
    said = begin(bob, job)
    assert "the job is not run" in said
    assert not marker.exists()
    assert ran(bob) is None


@pytest.mark.parametrize(
    ("attack", "phase"), [(open_folder, "failed"), (replaced_study, "submitted"), (linked_study, "submitted")]
)
def test_a_run_whose_job_is_refused_says_so_if_its_folders_are_its_user_s(alice, bob, job, attack, phase):
    """What alice put in its place keeps what stands in it: nothing is written there."""
    (job.parent / "state.json").write_text(json.dumps({"phase": "submitted"}))
    bob.give(job.parent / "state.json")
    attack(alice, job, bob.home / "marker")
    begin(bob, job)
    state = json.loads((job.parent / "state.json").read_text())
    assert state["phase"] == phase
    assert ("the job is not run" in state.get("detail", "")) == (phase == "failed")


SWAP = """
looked, study = checked._look_at, "{study}"
def swapped(*given):
    looked(*given)
    os.rename(study, study + "2")
    os.rename(os.path.dirname(study) + "/hers", study)
checked._look_at = swapped
"""


def test_a_folder_that_is_swapped_after_the_look_is_not_seen(alice, bob, job):
    marker = bob.home / "marker"
    replaced_study(alice, job, marker)
    study = job.parents[1]
    study.rename(study.with_name("hers"))
    study.with_name("away").rename(study)
    swap = SWAP.format(study=str(study))
    begin(bob, job, swap)
    assert study.stat().st_uid == ALICE, "it was swapped"
    assert not marker.exists()
    assert ran(bob) == "bob\n"


def test_a_rank_believes_no_settings_that_others_put_there(alice, bob, job):
    run = job.parent
    replaced_study(alice, job, bob.home / "marker")
    process = bob.start("-m", "hpctrain.training.worker", run, "token")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"uid {ALICE}" in err
    assert not (run / "attempts").exists()


def test_a_run_is_not_started_in_a_folder_that_others_may_write_to(bob, shared):
    run = bob.makes_run(shared)
    run.chmod(0o770)
    _, err = bob.hpctrain(
        "submit", "lenet_digits", "cluster=local", f"run.root={shared}", "run.study=study", code=2
    )
    assert "others may write there (mode 0770)" in err
