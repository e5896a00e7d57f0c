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


def losses_of(cli, study, *overrides):
    cli.run(
        "train", "model=resnet18", "data=digits", "model.stem=cifar", "model.width=4", "data.train_limit=70",
        "data.validation_limit=16", "train.log_every=1", "train.steps=9", "optimizer.lr=0.002", f"run.study={study}",
        *overrides,
    )  # fmt: skip
    return [
        record["scores"]["loss"] for kind in ("train", "validation") for record in cli.records(kind, study)
    ]


@pytest.mark.long
def test_over_all_ranks_a_run_does_not_depend_on_their_number(cli):
    one = losses_of(cli, "one", "train.batch_size=16")
    two = ("resources.ranks=2", "train.batch_size=8")
    together = losses_of(cli, "all", *two, "comm.batch_norm_ranks=all")
    apart = losses_of(cli, "apart", *two)
    assert len(one) == len(together) == 11  # 9 steps, and the validations after 5 and 9
    assert together == pytest.approx(one, rel=1e-4)
    assert apart != pytest.approx(one, rel=1e-3)
