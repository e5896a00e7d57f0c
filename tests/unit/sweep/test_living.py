"""Which jobs of a study live, what they will still do, and what becomes of runs that nobody has begun."""

import subprocess
from dataclasses import asdict

import pytest

from hpctrain.launch.status import UNKNOWN, UNREACHABLE
from hpctrain.scheduler import client
from hpctrain.scheduler.answers import Job
from hpctrain.storage.lock import process, this_process
from hpctrain.storage.run_state import Submission
from hpctrain.sweep import living, overview
from hpctrain.sweep.settings import SweepConfig
from hpctrain.sweep.study_dir import StudyDir, Trial, stored


def part(runs=(), on_slurm=True, **settings):
    trials = [stored(Trial(run_id, (), {}, {})) for run_id in runs]
    sweep = asdict(SweepConfig(**settings))
    return {"sweep": sweep, "on_slurm": on_slurm, "slurm_conf": None, "trials": trials}


@pytest.fixture
def study(tmp_path):
    made = StudyDir(tmp_path / "runs" / "s")
    made.create()
    return made


@pytest.fixture
def queued(study, monkeypatch):
    """Sets what squeue shows; None: it does not answer. Returns the list of its calls."""
    calls = []

    def show(*jobs):
        def queue(conf):
            calls.append(conf)
            if jobs == (None,):
                raise client.Unreachable("away")
            return {job_id: Job(job_id, state, "", comment) for job_id, state, comment in jobs}

        monkeypatch.setattr(client, "queue", queue)
        return calls

    return show


def record(job_id, began=1.0, until=None, owner=None, **facts):
    owner = asdict(owner or this_process(0))
    return {
        "job_id": job_id,
        "lanes": 1,
        "began": began,
        "until": until,
        "owner": owner,
        "seen": began,
    } | facts


def live(study, *states):
    jobs = {f"12_{n}": Job(f"12_{n}", state, "", study.comment) for n, state in enumerate(states)}
    return [(job.begins, job.ends) for job in living.in_slurm(study, jobs)]


def test_what_each_live_job_has_left_of_its_quota(study):
    study.add_part(part())
    study.note_job("12", 4)
    assert live(study, "PENDING", "CONFIGURING", "RUNNING") == [(4, 4)] * 3
    study.write_job("a", record("12_0", quota=4, taken=3, busy=2))
    study.write_job("b", record("12_1", quota=4, taken=4, busy=0))
    assert live(study, "RUNNING", "RUNNING", "COMPLETED", "CANCELLED") == [(1, 3), (0, 0)]
    assert live(study, "REQUEUED") == [(4, 4)], "its next start has the whole quota"
    assert live(study, "A_NEW_WORD") == [(1, 3)], "is no end"


def test_a_job_that_was_started_again_has_its_whole_quota(study):
    study.add_part(part())
    study.note_job("12", 4)
    study.write_job("z", record("12_0", began=1.0, until=2.0, quota=4, taken=4, busy=0))
    assert live(study, "RUNNING") == [(4, 4)]
    assert live(study, "COMPLETING") == [(0, 0)]
    study.write_job("a", record("12_0", began=3.0, quota=4, taken=1, busy=1))
    assert live(study, "RUNNING") == [(3, 4)]


def test_a_job_without_a_quota_goes_on(study):
    study.add_part(part(pruner="asha"))
    study.note_job("12", None)
    assert live(study, "RUNNING", "PENDING") == [(None, None)] * 2


def test_an_array_whose_submitter_died_has_the_usual_quota(study):
    study.add_part(part(runs_per_job=3))
    assert live(study, "PENDING") == [(3, 3)]
    study.write_job("a", record("12_0"))  # of a version that noted no more
    assert live(study, "RUNNING") == [(3, 3)]


def test_other_jobs_are_not_the_study_s(study):
    study.add_part(part())
    assert living.in_slurm(study, {"12_0": Job("12_0", "RUNNING", "", "hpctrain:study:other")}) == []


def test_processes_of_this_machine_and_of_others(study):
    assert living.here(study) == (0, 0)
    with subprocess.Popen(["sleep", "60"]) as waits:
        study.note_job(str(waits.pid), None, asdict(process(waits.pid)))
        study.write_job("a", record(None))  # the job that it waits for
        assert living.here(study) == (1, 0)
        waits.kill()
    study.write_job("a", record(None, until=2.0))
    assert living.here(study) == (0, 0)
    elsewhere = asdict(this_process(0)) | {"boot": "other x", "machine": "other", "host": "other"}
    study.note_job("7", None, elsewhere)
    assert living.here(study) == (0, 1)


def details(study, queues=None):
    return [
        (row.run, row.detail, row.scheduler)
        for row in overview.waiting(study.path.parent, None, None, queues)
    ]


IN_LINE = "waits for a slot of its study"
NO_JOB = "waits for hpctrain sweep: no job of the study is left"


def test_runs_in_line_for_the_study_s_jobs(study, queued):
    study.add_part(part(["a", "b", "c"]))
    study.note_job("12", 1)
    queued(("12_0", "RUNNING", study.comment), ("12_1", "PENDING", study.comment))
    study.write_job("x", record("12_0", quota=1, taken=0, busy=0))
    full = "waits for hpctrain sweep: the jobs of the study have other runs to do"
    assert details(study) == [("a", IN_LINE, None), ("b", IN_LINE, None), ("c", full, None)]
    assert not any(row.needs_start for row in overview.waiting(study.path.parent, "s"))
    study.run("a").create({})  # begun
    assert [run for run, *_ in details(study)] == ["b", "c"]


def test_runs_that_no_job_will_do_wait_for_a_sweep(study, queued):
    study.add_part(part(["a"]))
    queued(("12_0", "COMPLETED", study.comment), ("13", "RUNNING", "another's"))
    assert details(study) == [("a", NO_JOB, None)]
    assert [row.needs_start for row in overview.waiting(study.path.parent, "s")] == [True]
    queued(None)
    assert details(study) == [("a", IN_LINE, UNREACHABLE)], "no answer is no news"
    study.cancel_file.touch()
    assert details(study) == [("a", "waits for hpctrain sweep: the study is cancelled", None)]


def test_many_studies_ask_squeue_once(study, queued):
    calls = queued()
    for number in range(20):
        other = StudyDir(study.path.parent / f"s{number}")
        other.create()
        other.add_part(part(["a"]))
    assert len(details(study, client.Queues())) == 20
    assert calls == [None]


def test_local_runs_in_line_for_processes(study):
    study.add_part(part(["a"], on_slurm=False))
    assert details(study) == [("a", NO_JOB, None)]
    study.note_job("7", None, asdict(this_process(0)))
    assert details(study) == [("a", IN_LINE, None)]
    elsewhere = record(None, owner=this_process(0))
    elsewhere["owner"] |= {"boot": "other x", "machine": "other", "host": "other"}
    study.folder.joinpath("submissions.json").unlink()
    study.write_job("x", elsewhere)
    assert details(study) == [("a", living.elsewhere(study), UNKNOWN)]


def test_watching_ends_when_nothing_changes_by_itself(study, queued, monkeypatch, capsys):
    from hpctrain import cli

    monkeypatch.chdir(study.path.parent.parent)
    study.add_part(part(["a"]))
    queued()
    assert cli.main(["status", "--watch", "--json"]) == 0
    assert NO_JOB in capsys.readouterr().out


def test_cancelling_reaches_every_live_job_of_the_study(study, queued, monkeypatch):
    study.add_part(part(["a"]))
    study.add_part(part(["b"], on_slurm=False))
    queued(
        ("12_0", "RUNNING", study.comment), ("12_1", "A_NEW_WORD", study.comment),
        ("12_2", "COMPLETED", study.comment), ("13", "RUNNING", "another's"),
    )  # fmt: skip
    asked = []
    monkeypatch.setattr(client, "cancel", lambda ids, conf: asked.extend(ids))
    assert overview.cancel(study).taken
    assert asked == ["12_0", "12_1"]
    queued(None)
    assert not overview.cancel(study).taken


def test_cancelling_reaches_the_jobs_of_a_study_with_damaged_files(study, queued, monkeypatch):
    study.add_part(part(["a"]))
    comment = study.comment
    run = study.run("a")
    run.path.mkdir(parents=True)
    run.submission.write(Submission(cluster="c", study=True, job_ids=("12_0",)))
    (study.folder / "parts/1.json").write_text("{")
    queued(("12_0", "RUNNING", comment), ("13", "RUNNING", "another's"))
    asked = []
    monkeypatch.setattr(client, "cancel", lambda ids, conf: asked.extend(ids))
    answer = overview.cancel(StudyDir(study.path))
    assert asked == ["12_0"]
    assert run.cancel_file.exists()
    assert (answer.taken, "parts/1.json is damaged" in answer.words) == (False, True)
