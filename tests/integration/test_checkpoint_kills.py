"""Runs killed with -9 at random moments, and runs that change their number of ranks: nothing is lost or twice.

One rank: forked from a process that has torch imported already, so that a hundred starts are quick. Two
ranks: the command line, with mpirun and Horovod. Each killed run is started again and has to end as the
undisturbed one did: tensors, records, ledger.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hpctrain.checkpoints import store
from hpctrain.checkpoints.saver import read
from hpctrain.config.load import to_dict
from hpctrain.data.derive import load
from hpctrain.data.sampler import epoch_order
from hpctrain.storage.run_dir import RunDir
from hpctrain.training.progress import fingerprint
from hpctrain.training.worker import work
from tests.waiting import until

SMALL = (
    "data.train_limit=200", "data.validation_limit=50", "train.batch_size=8", "data.augment=[flip]",
    "train.log_every=5", "resources.threads_per_rank=1", "checkpoint.every=3", "checkpoint.keep_last=2",
    "train.ema_decay=0.9",
)  # fmt: skip
EPOCHS = {1: 6, 2: 12}


def outcome(run):
    """What the run came to: its newest tensors, and what it said of its science."""
    folder = Path(run) / "checkpoints"
    found = read(folder, store.entries(folder)[-1])
    facts = {k: found.meta[k] for k in ("step", "epoch", "samples", "ledger", "sampler", "config_hash")}
    keys = ("kind", "step", "samples", "lr", "scores")
    lines = map(json.loads, (Path(run) / "metrics.jsonl").read_text().splitlines())
    records = [{k: line.get(k) for k in keys} for line in lines if line["kind"] in ("train", "validation")]
    return found.tensors, facts, records


def assert_same(one, other):
    assert one[0].keys() == other[0].keys()
    for name, tensor in one[0].items():
        assert torch.equal(tensor, other[0][name]), name
    assert one[1:] == other[1:]


def child(run, token):
    """Start the run's one rank in a forked process."""
    pid = os.fork()
    if pid == 0:
        os._exit(work(run, token))
    return pid


def kill_one_rank_runs(folder, times):
    """Kill so many runs before their end; all end as the undisturbed one, also those not hit."""
    config = load(["experiment=lenet_digits", f"train.epochs={EPOCHS[1]}", *SMALL])
    run = RunDir(folder / "whole")
    run.create(to_dict(config))
    began = time.monotonic()
    assert os.waitpid(child(run, "whole"), 0)[1] == 0
    whole, whole_s = outcome(run.path), time.monotonic() - began
    generator, killed, number = random.Random(0), 0, 0
    while killed < times:
        number += 1
        run = RunDir(folder / str(number))
        run.create(to_dict(config))
        pid = child(run, "first")
        time.sleep(generator.uniform(0, whole_s))
        os.kill(pid, signal.SIGKILL)
        killed += os.waitpid(pid, 0)[1] == signal.SIGKILL
        assert os.waitpid(child(run, "second"), 0)[1] == 0, (run.rank_log(2, 0)).read_text()
        assert_same(outcome(run.path), whole)


def processes_of(folder):
    """All processes that work on the runs in `folder`, by their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def kill_all(cli, process):
    process.kill()
    for pid in processes_of(cli.folder):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.communicate()
    while processes_of(cli.folder):
        time.sleep(0.05)


def two_ranks(study, precision):
    return (
        "train", "lenet_digits", *SMALL, f"train.epochs={EPOCHS[2]}", "resources.ranks=2", f"run.study={study}",
        f"precision={precision}",
    )  # fmt: skip


def kill_two_rank_runs(cli, times, precision="fp32"):
    cli.run(*two_ranks("whole", precision))
    whole = outcome(cli.the_run("whole"))
    whole_s = cli.records("summary", "whole")[0]["elapsed_s"]
    generator, killed, number = random.Random(1), 0, 0
    while killed < times:
        number += 1
        study = f"cut{number}"
        process = cli.start(*two_ranks(study, precision))
        if number % 4:  # in training; else at any time, the start included
            while process.poll() is None and not list(cli.folder.glob(f"runs/{study}/*/metrics.jsonl")):
                time.sleep(0.02)
            time.sleep(generator.uniform(0, whole_s))
        else:
            time.sleep(generator.uniform(1, 6))
        kill_all(cli, process)
        killed += cli.state(study).get("phase") != "done" if cli.runs(study) else True
        cli.run(*two_ranks(study, precision))
        assert_same(outcome(cli.the_run(study)), whole)


def run_alone(tmp_path, times):
    """This file as a program: it forks, which a process that has run torch's threads should not."""
    tmp_path.chmod(0o700)
    command = [sys.executable, __file__, str(tmp_path), str(times)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr + done.stdout


@pytest.mark.long
def test_one_rank_killed_and_resumed_ends_as_the_undisturbed_run(tmp_path):
    run_alone(tmp_path, 4)


@pytest.mark.parametrize(
    "precision", [pytest.param(name, marks=pytest.mark.long) for name in ("fp32", "auto")]
)  # contiguous, and channels_last
def test_two_ranks_killed_and_resumed_end_as_the_undisturbed_run(cli, precision):
    kill_two_rank_runs(cli, 1, precision)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_fifty_runs_of_one_rank_killed_and_resumed(tmp_path):
    run_alone(tmp_path, 50)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_fifty_runs_of_two_ranks_killed_and_resumed(cli):
    kill_two_rank_runs(cli, 50)


def test_two_ranks_then_one_then_four_take_each_sample_once_an_epoch(cli):
    """Resumed with `resume RUN resources.ranks=N`: the samples of a step stay, so the science does."""
    length = ("data.train_limit=200", "data.validation_limit=50", "train.batch_size=8", "train.epochs=300")
    process = cli.start("train", "lenet_digits", *length, "resources.ranks=2", "resources.threads_per_rank=1")
    until(lambda: process.poll() is None and cli.runs() and cli.state().get("step", 0) > 3)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130, process.communicate()
    process.communicate()
    run = cli.the_run()
    whole = [200, fingerprint(epoch_order(200, 0, 0, True))]
    seen = []
    for ranks in (1, 4):
        before = cli.state()["step"]
        out, _ = cli.run("resume", run.name, f"resources.ranks={ranks}")
        assert f'"ranks": {ranks}' in out
        until(lambda start=before: cli.state().get("step", 0) > start + 20)
        cli.run("cancel", run.name)
        until(lambda: cli.state()["phase"] == "cancelled")
        log = (run / f"attempts/{cli.state()['attempt']}/rank_0.log").read_text()
        assert f"resuming on {ranks} ranks what" in log
        meta = read(run / "checkpoints", store.entries(run / "checkpoints")[-1]).meta
        seen.append((meta["world_size"], meta["sampler"]["effective_batch"]))
        ledger = meta["ledger"]
        assert ledger["epochs"]
        assert all(epoch == whole for epoch in ledger["epochs"])
        begun = epoch_order(200, 0, ledger["epoch"], True)[: ledger["taken"]]
        assert ledger["fingerprint"] == fingerprint(begun)
        assert meta["samples"] == len(ledger["epochs"]) * 200 + ledger["taken"]
    assert seen == [(1, 16), (4, 16)]


def test_a_number_of_ranks_that_does_not_divide_a_step_is_refused(cli):
    cli.run("train", "lenet_digits", *SMALL, "train.epochs=1", code=0)
    run = cli.the_run()
    state = json.loads((run / "state.json").read_text())
    (run / "state.json").write_text(json.dumps(state | {"phase": "failed"}))
    _, err = cli.run("resume", run.name, "resources.ranks=3", code=2)
    assert "resources.ranks=3: must divide the 8 samples of a step (did you mean 2" in err
    _, err = cli.run("resume", run.name, "optimizer.lr=7", code=2)
    assert "optimizer.lr=7.0: the run was made with" in err
    _, err = cli.run("resume", run.name, "optimizer.lrr=7", code=2)
    assert "did you mean optimizer.lr?" in err


if __name__ == "__main__":
    os.umask(0o077)
    torch.set_num_threads(1)
    kill_one_rank_runs(Path(sys.argv[1]), int(sys.argv[2]))
