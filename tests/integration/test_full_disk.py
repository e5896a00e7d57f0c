"""Whole runs on a disk that is really full: for five seconds, for good, before they begin; with one rank and with two.

What the run frees while the disk is full is taken at once.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hpctrain.config.load import to_dict
from hpctrain.data.derive import load
from hpctrain.storage import full_disk
from hpctrain.storage.last_word import exit_code
from hpctrain.storage.run_dir import RunDir
from hpctrain.training.worker import work
from tests.integration.conftest import Cli
from tests.small_disk import small_disk
from tests.waiting import until

NETWORKS = str(Path(__file__).parents[1] / "slurm")
SLOW = (
    "lenet_digits", "model=custom", "model.target=slow_network:SlowNetwork", "+model.pause_s=0.08",
    "train.batch_size=8", "train.steps=150", "train.log_every=5", "checkpoint.every=10", "checkpoint.keep_last=2",
    "data.validation_limit=20", "resources.threads_per_rank=1",
)  # fmt: skip
QUICK = (*SLOW, "model.pause_s=0")


def networks_path():
    return os.pathsep.join((NETWORKS, os.environ.get("PYTHONPATH", "")))


@pytest.fixture
def disk(tmp_path):
    """Eight MiB of a real file system; runs take less than one."""
    with small_disk(tmp_path / "small", "8m") as disk:
        yield disk


@pytest.fixture
def small(disk, monkeypatch):
    """The command line, with its runs on the small disk."""
    monkeypatch.setenv("PYTHONPATH", networks_path())
    monkeypatch.setenv("HPCTRAIN_DEBUG", "")
    return Cli(disk.place)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """By number of ranks: tensors, and records of training and validation, of runs with all the room they want."""
    found = {}

    def of(ranks):
        if ranks not in found:
            cli = Cli(tmp_path_factory.mktemp("whole"))
            cli.run("train", *QUICK, f"resources.ranks={ranks}", PYTHONPATH=networks_path())
            found[ranks] = outcome(cli.the_run())
        return found[ranks]

    return of


def outcome(run):
    """The tensors of its newest checkpoint, and its records of training and validation."""
    keys = ("kind", "step", "samples", "lr", "scores")
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    records = [{k: line.get(k) for k in keys} for line in lines if line["kind"] != "summary"]
    return load_file(max((run / "checkpoints").glob("step_*")) / "tensors.safetensors"), records


def assert_same(one, other):
    assert one[0].keys() == other[0].keys()
    for name, tensor in one[0].items():
        assert torch.equal(tensor, other[0][name]), name
    assert one[1] == other[1]


def step(cli):
    return (cli.state() if cli.runs() else {}).get("step") or 0


def row(cli):
    (found,) = json.loads(cli.run("status", "--json")[0])
    return found["phase"], found["reason"]


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.long), 2])
def test_five_seconds_cost_a_checkpoint_and_a_heartbeat(disk, small, undisturbed, ranks):
    process = small.start("train", *SLOW, f"resources.ranks={ranks}", "train.tensorboard=true")
    until(lambda: step(small) >= 20, "step 20")
    disk.fill()
    time.sleep(5)
    assert process.poll() is None
    disk.free()
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, (out, err, small.logs())
    assert "checkpoint not written" in out
    assert (small.state()["phase"], small.state()["checkpoint"]) == ("done", 150)
    assert_same(outcome(small.the_run()), undisturbed(ranks))
    assert len(list((small.the_run() / "checkpoints").glob("step_*"))) == 2
    assert not list(small.the_run().rglob(".*.json*")) + list(small.the_run().rglob(".draft.*"))


@pytest.mark.long
@pytest.mark.parametrize("ranks", [1, 2])
def test_full_for_good_ends_as_disk_full_and_goes_on_when_there_is_room(disk, small, undisturbed, ranks):
    process = small.start("train", *SLOW, "train.steps=1000", f"resources.ranks={ranks}")
    until(lambda: step(small) >= 20, "step 20")
    disk.fill()
    out, err = process.communicate(timeout=240)
    assert process.returncode == 1, (out, err)
    assert "failed" in err
    assert "DISK_FULL: checkpoints cannot be written" in err
    assert "Traceback" not in out + err
    disk.free()
    for line in (small.the_run() / "metrics.jsonl").read_text().splitlines():
        json.loads(line)
    until(lambda: row(small) == ("failed", "DISK_FULL"), "status to say so", patience_s=60)


@pytest.mark.parametrize("kept_full", [True, False])
def test_full_before_the_start(disk, small, kept_full):
    disk.fill()
    if not kept_full:
        disk.rest()
    _, err = small.run("train", *QUICK, code=1)
    assert "DISK_FULL" in err
    assert "No space left" in err
    assert "Traceback" not in err
    assert "internal error" not in err


def child(run, token, stderr=2):
    """Starts the run's one rank in a forked process, with `stderr` as its launcher's."""
    pid = os.fork()
    if pid == 0:
        os.dup2(stderr, 2)
        os._exit(work(run, token))
    return pid


def end_of(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def stopped(disk, monkeypatch):
    """A run of one rank on the small disk that was asked to stop in its middle, as before a requeue."""
    monkeypatch.syspath_prepend(NETWORKS)
    monkeypatch.setattr(full_disk, "PATIENCE_S", 10.0)
    run = RunDir(disk.place / "run")
    run.create(to_dict(load([f"experiment={SLOW[0]}", *SLOW[1:]])))
    pid = child(run, "first")
    until(lambda: (run.read_state().step or 0) >= 40, "step 40")
    os.kill(pid, signal.SIGINT)
    assert end_of(pid) == 0
    run.state.beat(phase="requeued", reason="PREEMPTED")
    return run


def test_a_job_that_comes_back_onto_a_full_disk_says_so_without_it(disk, stopped, tmp_path):
    """Nobody but the exit code and stderr can tell."""
    before = stopped.metrics_file.read_bytes()
    disk.fill()
    with (tmp_path / "stderr").open("wb") as stderr:
        assert end_of(child(stopped, "second", stderr.fileno())) == exit_code("DISK_FULL")
    (line,) = (tmp_path / "stderr").read_text().splitlines()
    assert line.startswith("hpctrain: rank 0: DISK_FULL: ")
    post_mortem = [
        sys.executable,
        "-m",
        "hpctrain.launch.post_mortem",
        stopped.path,
        str(exit_code("DISK_FULL")),
    ]
    job = os.environ | {"SLURM_JOB_ID": "7"}
    said = subprocess.run(post_mortem, capture_output=True, text=True, env=job)
    assert said.returncode == exit_code("DISK_FULL")
    assert said.stderr.startswith("hpctrain: DISK_FULL: ")
    assert stopped.read_state().phase == "requeued"  # there was no room for the truth
    assert stopped.attempts() == [1]
    assert stopped.metrics_file.read_bytes() == before
    disk.free()
    assert not list(stopped.path.rglob(".new.*"))
    assert subprocess.run(post_mortem, env=job).returncode == exit_code("DISK_FULL")
    assert stopped.read_state().reason == "DISK_FULL"


@pytest.mark.long
def test_room_that_comes_back_while_a_run_starts(disk, stopped, undisturbed, monkeypatch):
    monkeypatch.setattr(full_disk, "PATIENCE_S", 60.0)
    disk.fill()
    pid = child(stopped, "second")
    time.sleep(5)
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    disk.free()
    assert end_of(pid) == 0
    assert_same(outcome(stopped.path), undisturbed(1))


def test_the_last_moments_of_a_run_wait_for_room(disk, stopped, undisturbed):
    """The last save, the last record, the curves and the last word of state.json, one after the other."""
    pid = child(stopped, "second")
    until(lambda: (stopped.read_state().step or 0) >= 140, "step 140")
    disk.fill()
    time.sleep(5)
    disk.free()
    assert end_of(pid) == 0
    assert stopped.read_state().phase == "done"
    assert_same(outcome(stopped.path), undisturbed(1))
