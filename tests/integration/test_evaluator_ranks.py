"""Scores that do not add up, of a toy task added through the public tables: to the bit the same on any real ranks."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from hpctrain.config import compose
from hpctrain.config.load import from_dict
from hpctrain.launch.prepare import prepare
from tests.integration import evaluator_worker

SETTINGS = (
    "lenet_digits", "train.epochs=1", "train.batch_size=2", "data.train_limit=12", "optimizer.lr=0",
    "checkpoint.asynchronous=false", "resources.device=cpu",
)  # fmt: skip


@pytest.fixture(autouse=True)
def rows(monkeypatch):
    for table, name, row in evaluator_worker.ROWS:
        monkeypatch.setitem(table, name, row)


def evaluated(folder, ranks, samples):
    """The scores of the last validation, by number of samples; and whether a rank waited for long."""
    runs = {}
    for count in samples:
        changes = f"resources.ranks={ranks}", f"data.validation_limit={count}", f"run.root={folder}"
        values = compose.compose([*SETTINGS, *changes, f"run.name=r{ranks}_{count}"])
        config = from_dict(values | {"model": {"name": "spot"}, "task": {"name": "guessing"}})
        runs[count] = prepare(config)
    as_root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    flags = ["--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]
    worker = [sys.executable, evaluator_worker.__file__, *(str(run.path) for run in runs.values())]
    done = subprocess.run(
        [shutil.which("mpirun"), *as_root, "-np", str(ranks), *flags, *worker],
        cwd=folder, capture_output=True, text=True, timeout=280, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    found = {}
    for count, run in runs.items():
        records = map(json.loads, run.metrics_file.read_text().splitlines())
        (found[count],) = [record["scores"] for record in records if record["kind"] == "validation"]
    return found, "waited for 2 parts" in done.stdout


@pytest.mark.long
def test_scores_that_do_not_add_up_are_the_same_on_any_ranks(tmp_path):
    """50 samples in batches of 2 per rank; and one sample, so that every rank but one has none."""
    alone, _ = evaluated(tmp_path, 1, (50, 1))
    two, waited = evaluated(tmp_path, 2, (50, 1))
    three, _ = evaluated(tmp_path, 3, (50, 1))
    for count, took_part in ((50, (1, 2, 3)), (1, (1, 1, 1))):
        scores = [alone[count], two[count], three[count]]
        assert tuple(of_ranks.pop("parts") for of_ranks in scores) == took_part
        assert scores[0] == scores[1] == scores[2]
    assert 0 < alone[50]["area"] < 1
    assert alone[50]["swing"] > 0
    # Rank 0 computed for longer than a rank may wait for another.
    assert waited
