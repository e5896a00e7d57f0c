"""Fifty networks as people write them train on 1, 2 and 3 ranks as they do in plain PyTorch, or are refused by name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.odd_networks import EQUAL

CLOSE = 1e-5  # of a weight's norm, after 20 steps in fp32


def trained(ranks, folder, *names):
    """What the worker found, by network, and all that it printed."""
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    done = subprocess.run(
        ["mpirun", *root, "-np", str(ranks), "--oversubscribe", "--bind-to", "none", sys.executable,
         str(Path(__file__).with_name("differential_worker.py")), str(ranks), str(folder), *names],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["name"]: line["found"] for line in lines}, done.stdout


# Those in which the ranks and what they sum differ most; all of them with the long tests.
OF_EACH_KIND = (
    "Plain", "DictOut", "InceptionLike", "Lazy", "ExtraState", "Unused", "Reentrant", "NonReentrant", "OwnCheckpoint",
    "OldSpectralNorm", "Pruned", "Rows", "Tied", "SparseEmbedding", "BatchNorm", "GradientInside", "MixedPrecision",
    "Mixture",
)  # fmt: skip


@pytest.mark.parametrize(
    ("ranks", "names"),
    [(2, OF_EACH_KIND), *(pytest.param(ranks, EQUAL, marks=pytest.mark.long) for ranks in (1, 2, 3))],
    ids=["some-2", "all-1", "all-2", "all-3"],
)
def test_weights_are_those_of_plain_pytorch(ranks, names, tmp_path):
    found, said = trained(ranks, tmp_path, *names)
    assert [*found] == [*names]
    assert {name: off for name, off in found.items() if not isinstance(off, float) or off > CLOSE} == {}
    if ranks > 1:
        assert said.count("more than one gradient in a backward pass") >= 2
    assert "never.bias, never.weight: without a gradient on any rank" in said


def test_a_gradient_that_comes_too_late_ends_the_run_before_the_update(tmp_path):
    found, _ = trained(2, tmp_path, "SometimesTwice")
    assert found["SometimesTwice"].startswith("LATE_GRADIENT: block.bias, block.weight: got another gradient")
