"""On two real ranks every kind of exchange gives the gradients of plain autograd, in whole and in parts."""

import json
import os
import subprocess
import sys
from pathlib import Path


def test_all_exchanges_give_equal_gradients():
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    done = subprocess.run(
        ["mpirun", *root, "-np", "2", "--oversubscribe", "--bind-to", "none", sys.executable,
         str(Path(__file__).with_name("exchange_worker.py"))],
        capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    first, second = found.pop("cores")
    available = os.sched_getaffinity(0)
    if len(available) > 1:  # two ranks that may use all cores are given a half each
        assert first
        assert set(first).isdisjoint(second)
        assert set(first) | set(second) <= available
    assert {kind: len(errors) for kind, errors in found.items()} == {
        "buckets": 4, "small_buckets": 4, "fp16": 4, "adasum": 4, "distributed_optimizer": 2,
    }  # fmt: skip
    for kind, errors in found.items():
        assert max(errors) < (2e-3 if kind == "fp16" else 1e-5), kind
    assert min(found["fp16"]) > 1e-7  # it did travel in half precision
