"""Whole runs on a disk that is really full: for five seconds, for good, before they begin; with one rank and with two.

A disk is a small tmpfs, mounted as root. A thread keeps it full: what the run frees is taken at once.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from hpctrain.storage.last_word import EXIT_DISK_FULL
from hpctrain.storage.run_dir import RunDir
from tests.integration.conftest import Cli
from tests.waiting import until

NETWORKS = str(Path(__file__).parents[1] / "slurm")
SLOW = (
    "lenet_digits", "model=custom", "model.target=slow_network:SlowNetwork", "+model.pause_s=0.08",
    "train.batch_size=8", "train.steps=150", "train.log_every=5", "checkpoint.every=10", "checkpoint.keep_last=2",
    "data.validation_limit=20",
)  # fmt: skip
QUICK = (*SLOW, "model.pause_s=0")


class Disk:
    """A folder on a file system of its own."""

    def __init__(self, place):
        self.place, self._filler = place, place / "filler"
        self._full = threading.Event()
        self._thread = None

    def fill(self):
        """Until `free`, every byte that is free is taken within a hundredth of a second."""
        self._full.set()
        self._top_up()
        self._thread = threading.Thread(target=self._keep_full, daemon=True)
        self._thread.start()

    def free(self):
        self._full.clear()
        self._thread.join()
        self._filler.unlink()

    def _keep_full(self):
        while self._full.is_set():
            time.sleep(0.01)
            self._top_up()

    def _top_up(self):
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * 4096)


@pytest.fixture
def disk(tmp_path):
    """Eight MiB of a real file system; runs take less than one."""
    place = tmp_path / "small"
    place.mkdir(mode=0o700)
    mounted = ["mount", "-t", "tmpfs", "-o", "mode=0700,size=8m", "tmpfs", str(place)]
    done = subprocess.run(mounted, capture_output=True, text=True)
    assert done.returncode == 0, f"this test mounts a tmpfs, as root: {done.stderr}"
    disk = Disk(place)
    yield disk
    disk._full.clear()
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def small(disk, monkeypatch):
    """The command line, with its runs on the small disk."""
    monkeypatch.setenv("PYTHONPATH", f"{NETWORKS}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("HPCTRAIN_DEBUG", "")
    return Cli(disk.place)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """By number of ranks: tensors, and records of training and validation, of runs with all the room they want."""
    found = {}

    def of(ranks):
        if ranks not in found:
            cli = Cli(tmp_path_factory.mktemp("whole"))
            cli.run(
                "train",
                *QUICK,
                f"resources.ranks={ranks}",
                PYTHONPATH=f"{NETWORKS}:{os.environ['PYTHONPATH']}",
            )
            found[ranks] = outcome(cli)
        return found[ranks]

    return of


def outcome(cli):
    keys = ("kind", "step", "samples", "lr", "scores")
    lines = map(json.loads, (cli.the_run() / "metrics.jsonl").read_text().splitlines())
    records = [{k: line.get(k) for k in keys} for line in lines if line["kind"] != "summary"]
    return cli.tensors(), records


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


@pytest.mark.parametrize("ranks", [1, 2])
def test_five_seconds_cost_a_checkpoint_and_a_heartbeat(disk, small, undisturbed, ranks):
    process = small.start("train", *SLOW, f"resources.ranks={ranks}")
    until(lambda: step(small) >= 20, "step 20")
    disk.fill()
    time.sleep(5)
    assert process.poll() is None
    disk.free()
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, (out, err, small.logs())
    assert "checkpoint not written" in out
    assert (small.state()["phase"], small.state()["checkpoint"]) == ("done", 150)
    assert_same(outcome(small), undisturbed(ranks))
    assert len(list((small.the_run() / "checkpoints").glob("step_*"))) == 2
    assert not list(small.the_run().rglob(".*.json*")) + list(small.the_run().rglob(".draft.*"))


@pytest.mark.parametrize("ranks", [1, 2])
def test_full_for_good_ends_as_disk_full_and_goes_on_when_there_is_room(disk, small, undisturbed, ranks):
    process = small.start("train", *SLOW, "train.steps=1000", f"resources.ranks={ranks}")
    until(lambda: step(small) >= 20, "step 20")
    disk.fill()
    full = time.monotonic()
    out, err = process.communicate(timeout=240)
    assert 25 < time.monotonic() - full < 100
    assert process.returncode == 1, (out, err)
    assert "failed" in err
    assert "DISK_FULL: checkpoints cannot be written" in err
    assert "Traceback" not in out + err.partition("  | ")[0]
    disk.free()
    for line in (small.the_run() / "metrics.jsonl").read_text().splitlines():
        json.loads(line)
    until(lambda: row(small) == ("failed", "DISK_FULL"), "status to say so", patience_s=60)


@pytest.mark.parametrize("kept_full", [True, False])
def test_full_before_the_start(disk, small, kept_full):
    disk.fill()
    if not kept_full:  # a few blocks come free
        disk._full.clear()
    _, err = small.run("train", *QUICK, code=1)
    assert "DISK_FULL" in err
    assert "No space left" in err
    assert "Traceback" not in err
    assert "internal error" not in err


def test_full_between_two_starts(disk, small, undisturbed):
    process = small.start("train", *SLOW)
    until(lambda: step(small) >= 40, "step 40")
    process.send_signal(2)
    process.communicate(timeout=60)
    before = (small.the_run() / "metrics.jsonl").read_bytes()
    disk.fill()
    _, err = small.run("train", *QUICK, code=1)
    assert "DISK_FULL" in err
    disk.free()
    assert (small.the_run() / "metrics.jsonl").read_bytes() == before
    small.run("train", *QUICK)
    assert_same(outcome(small), undisturbed(1))


def test_a_rank_that_cannot_write_a_byte_says_so_to_its_launcher(disk, small):
    """As in a job that comes back onto a full disk: nobody but the exit code and stderr can tell."""
    process = small.start("train", *SLOW)
    until(lambda: step(small) >= 20, "step 20")
    process.send_signal(2)
    process.communicate(timeout=60)
    run = small.the_run()
    disk.fill()
    rank = subprocess.run(
        [sys.executable, "-m", "hpctrain.training.worker", run, "another start"],
        capture_output=True,
        text=True,
    )
    assert rank.returncode == EXIT_DISK_FULL
    assert rank.stderr.startswith("hpctrain: rank 0: DISK_FULL: ")
    assert len(rank.stderr.splitlines()) == 1
    said = subprocess.run(
        [sys.executable, "-m", "hpctrain.launch.post_mortem", run, str(rank.returncode)],
        capture_output=True, text=True, env=os.environ | {"SLURM_JOB_ID": "7"},
    )  # fmt: skip
    assert said.returncode == EXIT_DISK_FULL
    assert said.stderr.startswith("hpctrain: DISK_FULL: ")
    disk.free()
    assert not list(run.rglob(".new.*"))
    assert RunDir(run).attempts() == [1]


def test_room_that_comes_back_while_a_run_starts(disk, small, undisturbed):
    process = small.start("train", *SLOW)
    until(lambda: step(small) >= 20, "step 20")
    process.send_signal(2)
    process.communicate(timeout=60)
    disk.fill()
    rank = subprocess.Popen(
        [sys.executable, "-m", "hpctrain.training.worker", small.the_run(), "another start"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(5)
    disk.free()
    assert (rank.communicate(timeout=120)[1], rank.returncode) == ("", 0)
    assert_same(outcome(small), undisturbed(1))
