"""A person's word on a study: it frees what nobody can tell of, and nothing of those who are known to live."""

import dataclasses
import json
import os
import shlex

import pytest

from hpctrain import cli
from hpctrain.errors import RunFailed
from hpctrain.scheduler import client
from hpctrain.scheduler.answers import Job
from hpctrain.storage import lock
from hpctrain.sweep import claims, living, start
from hpctrain.sweep.request import understand
from hpctrain.sweep.study_dir import StudyDir, Work

ELSEWHERE = {"boot": "another x", "machine": "another", "host": "login2", "pid": 7}


@pytest.fixture
def slurm(monkeypatch):
    """Sets the jobs that squeue shows; None: it does not answer."""

    def show(*jobs):
        def queue(conf):
            if jobs == (None,):
                raise client.Unreachable("away")
            return {job.job_id: job for job in jobs}

        monkeypatch.setattr(client, "queue", queue)
        monkeypatch.setattr(client, "history", lambda ids, conf: {})

    show()
    return show


@pytest.fixture
def study(tmp_path, monkeypatch, slurm):
    monkeypatch.chdir(tmp_path)
    made = StudyDir(tmp_path / "runs" / "s")
    made.create()
    made.add_part({"slurm_conf": None, "trials": [], "sweep": {}})
    return made


def elsewhere(path, **owner):
    """As if another machine had made the claim."""
    record = json.loads(path.read_text())
    record["owner"] |= ELSEWHERE | owner
    path.write_text(json.dumps(record))


def claim(study, run_id, **owner):
    claims.take(study.claims, Work(run_id))
    elsewhere(study.claims / f"{run_id}.0.1.json", **owner)


def outcomes(study):
    numbers = claims.newest(study.claims)
    return {key[0]: claims.read(study.claims, key, n).get("outcome") for key, n in numbers.items()}


def unlock(capsys, *words):
    code = cli.main(["sweep", "--unlock", *words])
    said = capsys.readouterr()
    return code, (said.out + said.err).strip()


def test_the_command_that_the_message_names_frees_the_study(study, slurm, monkeypatch, capsys):
    """A `sweep` was killed on another login node."""
    term = lock.acquire(study.folder, 0)
    term._write(**ELSEWHERE)
    monkeypatch.setattr(start, "PATIENCE_S", 0.0)
    request = understand(["lenet_digits", "run.study=s", f"run.root={study.path.parent}", "seed=1,2"])
    with pytest.raises(RunFailed, match="process 7 on login2 may still be extending the study") as caught:
        start.start(request, None)
    command = shlex.split(caught.value.detail.partition(": hpctrain ")[2])
    assert command[:2] == ["sweep", "--unlock"]
    monkeypatch.chdir("/")  # wherever it is typed
    assert unlock(capsys, *command[2:]) == (0, "now counted as ended: process 7 on login2")
    assert lock.acquire(study.folder, 0).number == 2


def test_claims_of_forgotten_jobs_are_freed_and_others_stay(study, slurm, capsys):
    for run_id, job_id in (("f", "77_0"), ("r", "12_1"), ("e", "12_9"), ("u", "12_4")):
        claim(study, run_id, job_id=job_id)
    claims.take(study.claims, Work("m"))  # this process's own
    slurm(Job("12_1", "RUNNING"), Job("12_9", "FAILED"), Job("12_4", "A_NEW_WORD"))
    assert unlock(capsys, "s") == (0, "now counted as ended: job 77_0")
    assert outcomes(study) == {"f": "unlocked", "r": None, "e": None, "u": None, "m": None}
    again = claims.take(study.claims, Work("f"), 1)
    assert (again.number, again.goes_on, again.mishaps()) == (2, True, 0)
    assert unlock(capsys, "s")[1].startswith("nothing to unlock")


def test_the_run_of_a_freed_claim_may_be_started_again(study, capsys):
    run = study.run("f")
    run.create({})
    term = lock.acquire(run.checkpoints, 1)
    term._write(**ELSEWHERE, job_id="77_0")
    claim(study, "f", job_id="77_0")
    assert unlock(capsys, str(study.path))[0] == 0
    assert lock.acquire(run.checkpoints, 2).number == 2


def test_a_local_job_that_died_elsewhere_before_it_had_begun_is_forgotten(study, monkeypatch, capsys):
    """Its host went with it: nothing but the note of its submitter is left."""
    study.count_as_ended(lambda owner: True)  # there is nothing yet
    theirs = dataclasses.asdict(lock.this_process(0)) | ELSEWHERE
    study.note_job("7", None, theirs)
    study.note_job("8", None, dataclasses.asdict(lock.this_process(0)))
    assert living.here(study) == (1, 1)
    assert unlock(capsys, "s") == (0, "now counted as ended: process 7 on login2")
    assert living.here(study) == (1, 0)
    assert study.job_ids() == ["7", "8"]


def test_a_local_job_that_died_elsewhere_at_work_is_forgotten(study, capsys):
    record = {"job_id": None, "lanes": 1, "began": 1.0, "until": None, "seen": 5.0, "busy": 1}
    mine = dataclasses.asdict(lock.this_process(0))
    study.write_job("theirs", record | {"owner": mine | ELSEWHERE})
    study.write_job("mine", record | {"owner": mine})
    assert unlock(capsys, "s") == (0, "now counted as ended: process 7 on login2")
    assert living.here(study) == (1, 0)
    assert sorted(str(job["until"]) for job in study.jobs()) == ["5.0", "None"]


def test_a_sweep_names_the_command_if_nobody_knows_of_its_processes(study, monkeypatch, capsys):
    words = [
        "sweep",
        "lenet_digits",
        "run.study=t",
        f"run.root={study.path.parent}",
        "seed=1,2",
        "cluster=local",
    ]
    monkeypatch.setattr("hpctrain.scheduler.submit.submit_here", lambda *args: str(os.getpid()))
    assert cli.main(words) == 0
    assert cli.main(words) == 0
    assert "its jobs are in the queue already; nothing was submitted" in capsys.readouterr().out
    noted = study.path.parent / "t/.study/submissions.json"
    values = json.loads(noted.read_text())
    values["processes"][0] |= ELSEWHERE
    noted.write_text(json.dumps(values))
    for command in (words, ["status", "--study", "t"]):
        assert cli.main(command) == 0
        assert f"hpctrain sweep --unlock {study.path.parent}/t" in capsys.readouterr().out, command
    assert unlock(capsys, "t")[0] == 0
    assert cli.main(words) == 0
    assert "submitted 1 job" in capsys.readouterr().out


def test_without_slurm_s_answer_claims_stay(study, slurm, capsys):
    claim(study, "f", job_id="77_0")
    slurm(None)
    code, said = unlock(capsys, "s")
    assert (code, outcomes(study)) == (1, {"f": None})
    assert "Slurm does not say which jobs of the study live: away" in said


def test_a_sweep_that_lives_keeps_the_study(study, capsys):
    with lock.acquire(study.folder, 0):
        code, said = unlock(capsys, "s")
    assert code == 1
    assert "is alive" in said


def test_a_study_that_does_not_exist(study, capsys):
    code, said = unlock(capsys, "t")
    assert code == 2
    assert "must be the name or the folder of a study" in said
