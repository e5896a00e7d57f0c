"""Submissions whose answers are lost: the job that may still come stays known by its token."""

import pytest

from hpctrain.config import compose
from hpctrain.data import derive
from hpctrain.errors import RunFailed
from hpctrain.scheduler import client, submit
from hpctrain.scheduler.answers import Job
from hpctrain.scheduler.recognition import comment_of
from hpctrain.storage.search import locate

LOST, REFUSED = "sbatch did not answer within 60 s", "sbatch: error: invalid account"


def job(path):
    """What the job would do."""


@pytest.fixture
def config():
    return derive.configure(compose.compose(("experiment=lenet_digits", "cluster=devcluster")))


@pytest.fixture
def run(tmp_path):
    run = locate(str(tmp_path), "s", "net-1")
    run.create({})
    return run


@pytest.fixture
def slurm(monkeypatch):
    """Sets what sbatch says, and what squeue shows."""
    queue, said = {}, []

    def sbatch(*_):
        raise RunFailed("SUBMIT_FAILED", said.pop(0))

    monkeypatch.setattr(client, "queue", lambda conf: queue)
    monkeypatch.setattr(submit, "_submit_slurm", sbatch)
    return queue, said


def test_a_job_whose_answer_was_lost_is_known_after_any_number_of_further_calls(run, config, slurm):
    queue, said = slurm
    said += [LOST, LOST, REFUSED]
    tokens = []
    while said:
        with pytest.raises(RunFailed):
            submit.submit(run, config, job)
        tokens.append(run.submission.read().token)
    assert len(set(tokens)) == 1
    queue |= {n: Job(n, "PENDING", "", comment_of("net-1", tokens[0]), "net-1") for n in ("7", "8")}
    assert submit.submit(run, config, job) == "7"
    assert run.submission.read().job_ids == ("7", "8")


def test_a_refusal_leaves_nothing_to_wait_for(run, config, slurm):
    slurm[1].append(REFUSED)
    run.state.submitted()
    with pytest.raises(RunFailed):
        submit.submit(run, config, job)
    assert not run.submission.read().open


def test_a_relative_slurm_conf_is_noted_absolute(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_CONF", "etc/slurm.conf")
    assert submit.slurm_conf(config) == str(tmp_path / "etc/slurm.conf")
