"""Random walks of users and faults (walk.py): a short one always, twenty of 500 steps with the long tests."""

import subprocess
import sys

import pytest

from tests.slurm.conftest import ROOT
from tests.slurm.walk import minimal, steps_of

pytestmark = pytest.mark.slurm


def play(seed, steps, *words):
    done = subprocess.run(
        [sys.executable, "-m", "tests.slurm.walk", str(seed), str(steps), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(900)
def test_a_short_walk(cluster):
    assert "0 false ends" in play(7, 6, "uncompared")


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("seed", range(20))
def test_a_long_walk(cluster, seed):
    assert "0 false ends" in play(seed, 500)


def test_a_walk_is_its_seed():
    assert steps_of(3, 50) == steps_of(3, 50) != steps_of(4, 50)


def test_a_failing_walk_is_made_shorter():
    steps = [("wait", n) for n in range(20)]
    guilty = {("wait", 3), ("wait", 17)}
    assert set(minimal(steps, lambda some: guilty <= set(some), tries=200)) == guilty
