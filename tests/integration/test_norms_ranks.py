"""Batch norm over ranks, on real ones: the gradients are those of each group's samples as one batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("ranks", "width"), [(2, "all"), (4, "2")])
def test_gradients_are_those_of_the_groups_batch(ranks, width):
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    done = subprocess.run(
        ["mpirun", *root, "-np", str(ranks), "--oversubscribe", "--bind-to", "none", sys.executable,
         str(Path(__file__).with_name("norms_worker.py")), str(ranks), width],
        capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert found["layers"] == 2
    assert max(found["errors"]) < 1e-5
    assert min(found["alone"]) > 1e-2
