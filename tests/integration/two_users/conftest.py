"""Alice, who attacks; bob and root, who read; and the folders that they share."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.people import ALICE, BOB, PYTHON, ROOT, TEAM, Person


@pytest.fixture(autouse=True)
def _two_users():
    if PYTHON is None:
        pytest.skip("needs root, setpriv, and a checkout and an interpreter that all users may read")


@pytest.fixture
def place():
    """A folder that everybody may enter; pytest's own are root's alone. What a test writes there, all may read."""
    before = os.umask(0o022)
    folder = Path(tempfile.mkdtemp(prefix="two-users."))
    folder.chmod(0o755)
    (folder / "tools").mkdir(mode=0o755)
    for name in ("squeue", "sacct", "scancel", "sbatch", "scontrol", "sdiag"):
        tool = folder / "tools" / name
        tool.write_text(f'#!/bin/sh\necho "{name} $SLURM_CONF $*" >> "$CALLS"\n')
        tool.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
    os.umask(before)


@pytest.fixture
def alice(place):
    return Person(place, ALICE)


@pytest.fixture
def bob(place):
    return Person(place, BOB)


@pytest.fixture(params=[BOB, ROOT], ids=["bob", "root"])
def reader(request, place):
    return Person(place, request.param)


@pytest.fixture
def shared(place):
    """run.root of a team: the group may write there."""
    folder = place / "runs"
    folder.mkdir()
    os.chown(folder, ROOT, TEAM)
    folder.chmod(0o2775)
    return folder
