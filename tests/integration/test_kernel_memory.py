"""A rank that the kernel really ends for its memory, in a cgroup of its own: nobody but the kernel's log knows why."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.waiting import until

GROUPS = Path("/sys/fs/cgroup")
LIMIT_BYTES = 64 * 2**20
HUNGRY = """
import time
import torch
from torch import nn

KEPT = []

class Hungry(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(64, 10))

    def forward(self, images):
        if self.training and not images.is_meta:
            time.sleep(0.05)
            KEPT.append(torch.ones(2**20))
        return self.layers(images)
"""


@contextlib.contextmanager
def limited(pid):
    """Within it, a process may take 64 MiB more than it has."""
    second = not (GROUPS / "memory").is_dir()  # version 2 of cgroups has one tree for all that is limited
    if second:
        (GROUPS / "cgroup.subtree_control").write_text("+memory")
    group = GROUPS / ("" if second else "memory") / f"hpctrain-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / ("memory.max" if second else "memory.limit_in_bytes")).write_text(str(LIMIT_BYTES))
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        until(lambda: not (group / "cgroup.procs").read_text(), "the end of the processes of the group")
        group.rmdir()


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("dmesg") is None,
    reason="limits memory and reads the kernel's log, as root",
)
def test_a_rank_that_the_kernel_ended_for_its_memory(cli):
    (cli.folder / "hungry.py").write_text(HUNGRY)
    network = ("model=custom", "model.target=hungry:Hungry", "resources.ranks=2", "train.epochs=1000")
    process = cli.start("train", *cli.small, *network)

    def rank_1():
        assert process.poll() is None, process.communicate()
        files = list(cli.folder.glob("runs/default/*/attempts/1/rank_1.json"))
        return bool(files) and cli.state().get("step") and json.loads(files[0].read_text())

    who = until(rank_1, "the first step")
    with limited(who["pid"]):
        out, err = process.communicate(timeout=240)
    assert process.returncode == 1, f"{out}\n{err}"
    state = cli.state()
    said = f"{state}\n{err}\n{cli.logs()}"
    assert (state["phase"], state["reason"], state["rank"]) == ("failed", "OUT_OF_MEMORY", 1), said
    assert "memory" in state["detail"], said
