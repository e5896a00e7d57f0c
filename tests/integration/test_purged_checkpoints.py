"""Runs whose files a purge of the file system took: never from step 0 in silence, and what is left stays as it is."""

import json
import os
import shutil
import signal
import sys

import pytest
import torch

from hpctrain.checkpoints import store
from hpctrain.checkpoints.saver import read
from hpctrain.config.load import to_dict
from hpctrain.data.derive import load
from hpctrain.storage.run_dir import RunDir
from hpctrain.training.worker import work
from tests.integration.test_full_disk import NETWORKS
from tests.waiting import until

SETTINGS = (
    "experiment=lenet_digits", "model=custom", "model.target=slow_network:SlowNetwork", "+model.pause_s=0.05",
    "train.batch_size=8", "train.steps=60", "train.log_every=5", "checkpoint.every=10", "data.validation_limit=20",
    "resources.threads_per_rank=1",
)  # fmt: skip


def child(run, token):
    """Starts the run's one rank in a forked process."""
    pid = os.fork()
    if pid == 0:
        os._exit(work(run, token))
    return pid


def goes_on(run, token="again"):
    """Starts it once more; returns its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(child(run, token), 0)[1])


@pytest.fixture(scope="module")
def at_work(tmp_path_factory):
    """Two runs of the same settings: one that was asked to stop at about step 30, one that was killed there."""
    sys.path.insert(0, NETWORKS)
    runs = {}
    for how in (signal.SIGINT, signal.SIGKILL):
        run = RunDir(tmp_path_factory.mktemp(how.name) / "run")
        run.create(to_dict(load(list(SETTINGS))))
        pid = child(run, "first")
        until(lambda run=run: (run.read_state().checkpoint or 0) >= 20, "a checkpoint of step 20")
        os.kill(pid, how)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == (0 if how == signal.SIGINT else -how)
        runs[how] = run
    yield runs
    sys.path.remove(NETWORKS)


@pytest.fixture(params=[signal.SIGINT, signal.SIGKILL], ids=["stopped", "killed"])
def run(request, at_work, tmp_path):
    """A copy of one of them."""
    copy = RunDir(tmp_path / "run")
    shutil.copytree(at_work[request.param].path, copy.path)
    copy.path.chmod(0o700)
    return copy


def steps(run):
    for path in run.checkpoints.glob("step_*"):
        shutil.rmtree(path)


def whole_folder(run):
    shutil.rmtree(run.checkpoints)


def attempts_too(run):
    shutil.rmtree(run.checkpoints)
    shutil.rmtree(run.path / "attempts")


def metrics_too(run):
    shutil.rmtree(run.checkpoints)
    run.metrics_file.unlink()


def all_but_attempts(run):
    metrics_too(run)
    run.state_file.unlink()


def all_files_and_no_folder(run):
    """As scratch purges do; what is read often stays."""
    for path in run.path.rglob("*"):
        if path.is_file() and path not in (run.config_file, run.state_file, run.metrics_file):
            path.unlink()


@pytest.mark.parametrize(
    "purge",
    [steps, whole_folder, attempts_too, metrics_too, all_but_attempts, all_files_and_no_folder],
)
def test_a_run_whose_checkpoints_are_gone_does_not_begin_anew(run, purge):
    purge(run)
    before = run.metrics_file.read_bytes() if run.metrics_file.exists() else None
    step = run.read_state().step
    for token in ("again", "and again"):
        assert goes_on(run, token) == 1
        state = run.read_state()
        assert (state.phase, state.reason, state.step) == ("failed", "NO_VALID_CHECKPOINT", step)
        assert "to begin anew, give another run.name or remove" in state.detail
        assert str(run.path) in state.detail
        assert (run.metrics_file.read_bytes() if run.metrics_file.exists() else None) == before
    assert store.entries(run.checkpoints) == []


def test_records_alone_are_a_witness(at_work, tmp_path):
    run = RunDir(tmp_path / "run")
    shutil.copytree(at_work[signal.SIGINT].path, run.path)
    run.path.chmod(0o700)
    whole_folder(run)
    run.state_file.unlink()
    before = run.metrics_file.read_bytes()
    assert goes_on(run) == 1
    assert run.read_state().reason == "NO_VALID_CHECKPOINT"
    assert run.metrics_file.read_bytes() == before


def newest(run):
    shutil.rmtree(max(run.checkpoints.glob("step_*")))


def newest_and_terms(run):
    newest(run)
    shutil.rmtree(run.checkpoints / "terms")
    (run.checkpoints / "latest").unlink()


def newest_without_its_folder(run):
    for path in max(run.checkpoints.glob("step_*")).iterdir():
        path.unlink()


def all_but_checkpoints(run):
    for path in run.path.rglob("*"):
        if path.is_file() and run.checkpoints not in path.parents and path != run.config_file:
            path.unlink()


@pytest.fixture(scope="module")
def undisturbed(at_work, tmp_path_factory):
    run = RunDir(tmp_path_factory.mktemp("whole") / "run")
    run.create(to_dict(load(list(SETTINGS))))
    assert goes_on(run) == 0
    return read(run.checkpoints, store.entries(run.checkpoints)[-1])


@pytest.mark.parametrize("purge", [newest, newest_and_terms, newest_without_its_folder, all_but_checkpoints])
def test_an_older_checkpoint_is_used_if_one_is_left(run, purge, undisturbed):
    purge(run)
    assert goes_on(run) == 0, run.rank_log(2, 0).read_text()
    assert run.read_state().phase == "done"
    found = read(run.checkpoints, store.entries(run.checkpoints)[-1])
    assert found.tensors.keys() == undisturbed.tensors.keys()
    assert all(torch.equal(tensor, undisturbed.tensors[name]) for name, tensor in found.tensors.items())
    recorded = [json.loads(line)["step"] for line in run.metrics_file.read_text().splitlines()]
    assert recorded[-1] == 60


@pytest.mark.parametrize("gone", ["nothing", "metrics", "attempts"])
def test_a_run_that_never_saved_one_begins_at_its_beginning(at_work, tmp_path, gone):
    run = RunDir(tmp_path / "run")
    run.create(to_dict(load([*SETTINGS, "checkpoint.every=1000"])))
    pid = child(run, "first")
    until(lambda: (run.read_state().step or 0) >= 5, "step 5")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    if gone == "metrics":
        run.metrics_file.unlink()
    if gone == "attempts":
        shutil.rmtree(run.path / "attempts")
    assert goes_on(run) == 0
    assert (run.read_state().phase, run.read_state().attempt) == ("done", 2)


@pytest.mark.long
def test_the_command_line_says_what_to_do(cli):
    (cli.folder / "runs").mkdir()
    cli.train()
    run = RunDir(cli.the_run())
    shutil.rmtree(run.checkpoints)
    before = run.metrics_file.read_bytes()
    run.state.ended("failed", "LOST", "as if it had been killed")
    _, err = cli.train(code=1)
    assert "NO_VALID_CHECKPOINT: step" in err
    assert "was saved, but no checkpoint is left" in err
    assert f"to begin anew, give another run.name or remove {run.path}" in err
    assert run.metrics_file.read_bytes() == before
    cli.train("run.name=anew")
    shutil.rmtree(run.path)
    cli.train()
