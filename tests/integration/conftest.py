"""Runs of the real command line, in processes of their own, in a folder of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


class Cli:
    # Small and quick: 200 digits, two epochs; with two ranks 14 steps.
    small = (
        "lenet_digits", "train.epochs=2", "train.batch_size=16", "data.train_limit=200",
        "data.validation_limit=50",
    )  # fmt: skip

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, *args, **env):
        return subprocess.Popen(
            [sys.executable, "-m", "hpctrain.cli", *args],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "HPCTRAIN_DEBUG": "1"} | env,
        )

    def run(self, *args, code=0, timeout=240, **env):
        process = self.start(*args, **env)
        out, err = process.communicate(timeout=timeout)
        assert process.returncode == code, (
            f"exit {process.returncode}, not {code}\n{out}\n{err}\n{self.logs()}"
        )
        return out, err

    def train(self, *args, **kwargs):
        return self.run("train", *self.small, *args, **kwargs)

    def logs(self):
        return "\n".join(p.read_text()[-3000:] for p in self.folder.glob("runs/*/*/attempts/*/rank_*.log"))

    def runs(self, study="default"):
        return sorted(p.parent for p in self.folder.glob(f"runs/{study}/*/config.yaml"))

    def the_run(self, study="default"):
        (run,) = self.runs(study)
        return run

    def state(self, study="default"):
        """{} while the run has said nothing."""
        file = self.the_run(study) / "state.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def records(self, kind, study="default"):
        lines = (self.the_run(study) / "metrics.jsonl").read_text().splitlines()
        return [r for r in map(json.loads, lines) if r["kind"] == kind]

    def tensors(self, study="default"):
        from safetensors.torch import load_file

        newest = max((self.the_run(study) / "checkpoints").glob("step_*"), key=lambda p: p.name)
        return load_file(newest / "tensors.safetensors")


@pytest.fixture
def cli(tmp_path):
    return Cli(tmp_path)
