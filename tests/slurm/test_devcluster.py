"""The development cluster itself: side by side, its links' rates, and no trace after down, whatever came before."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm.conftest import ROOT, SCRIPT, Cluster

pytestmark = pytest.mark.slurm

SMALL = ("--nodes", "1", "--gpus", "1", "--no-accounting")


def links():
    return {link["ifname"] for link in json.loads(subprocess.check_output(["ip", "-json", "link"]))}


def mounts():
    return Path("/proc/self/mountinfo").read_text()


def left_of(cluster):
    """Processes that still are in the cluster's namespaces."""
    tables = [t for t in Path("/proc").glob("[0-9]*/mountinfo") if str(cluster.folder) in _text(t)]
    return [t.parent.name for t in tables]


def _text(path):
    try:
        return path.read_text()
    except OSError:  # it ended
        return ""


@pytest.fixture
def another(cluster):
    """Another cluster beside the first, by name."""
    name = f"{cluster.name}b"
    made = Cluster(name, Path("/var/tmp") / f"hpctrain-{name}")
    yield made
    made.script("down")


def test_two_clusters_know_nothing_of_each_other(cluster, another):
    before = links(), mounts()
    another.script("up", *SMALL)
    assert another.call("sinfo", "-h", "-o%N %G") != cluster.call("sinfo", "-h", "-o%N %G")
    assert another.call("srun", "hostname") == "node1"
    assert json.loads(another.script("status", "--json"))["up"]
    assert "is up already" in another.script("up", *SMALL)
    another.script("down")
    assert (links(), mounts()) == before
    assert not another.folder.exists()
    assert not left_of(another)
    assert cluster.call("srun", "-N4", "hostname").split() != []


@pytest.mark.parametrize("lines", [0, 1])
def test_down_finds_what_a_killed_up_left(another, lines):
    """`up` is killed at its start, and while its daemons come up."""
    before = links(), mounts()
    line = [sys.executable, SCRIPT, "up", "--name", another.name, "--dir", another.folder, *SMALL]
    up = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    while lines and not (another.folder / "log").exists():
        assert up.poll() is None
    os.kill(up.pid, signal.SIGKILL)
    up.wait()
    another.script("down")
    assert (links(), mounts()) == before
    assert not another.folder.exists()
    assert not left_of(another)


def test_links_have_the_rate_that_they_are_given(cluster):
    cluster.script("shape", "--rate", "100mbit")
    try:
        for node in ("node1", "node4"):
            assert "rate 100Mbit" in cluster.script(
                "exec", "--node", node, "--", "tc", "qdisc", "show", "dev", "eth0"
            )
        assert "rate 100Mbit" in cluster.script(
            "exec", "--node", "head", "--", "tc", "qdisc", "show", "dev", "node4"
        )
    finally:
        cluster.script("shape", "--none")
    assert "tbf" not in cluster.script("exec", "--node", "node1", "--", "tc", "qdisc", "show", "dev", "eth0")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["up", "--name", "../x"], "lower-case"),
        (["up", "--nodes", "0"], "from 1 to 64"),
        (["shape", "--rate", "fast"], "such as 1gbit"),
        (["exec", "--node", "node9", "--", "true"], "must be one of head, node1"),
    ],
)
def test_bad_input_is_one_line(cluster, line, said):
    named = [] if "--name" in line else ["--name", cluster.name, "--dir", cluster.folder]
    done = subprocess.run([SCRIPT, line[0], *named, *line[1:]], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
