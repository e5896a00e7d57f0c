"""A secret that a user's own code prints and raises: in nothing that is written, and in nothing that is shown."""

import os
import subprocess
import sys

import pytest

CANARY = "ghp_" + 36 * "q"
CODE = """
import os, sys, warnings
import torch

class Net(torch.nn.Linear):
    def __init__(self, inputs: int = 1024, outputs: int = 10) -> None:
        super().__init__(inputs, outputs)

    def forward(self, x):
        if x.device.type == "meta":  # its operations are counted
            return super().forward(x.flatten(1))
        secret = os.environ["MY_CANARY"]
        print("using", secret, flush=True)
        print(f"Authorization: Bearer {secret}", file=sys.stderr)
        if self.training and len(x) >= int(os.environ.get("FAIL", 100)):  # a rehearsal has two samples
            raise RuntimeError(f"401 for https://me:{secret}@host/x")
        return super().forward(x.flatten(1))
"""
WORDS = ["model=custom", "model.target=net:Net", "data=digits", "train.epochs=null", "train.steps=2", "run.study=s",
         "data.train_limit=16", "data.validation_limit=8", "train.batch_size=8", "+data.field=${oc.env:MY_CANARY}",
         "checkpoint.every=1"]  # fmt: skip


@pytest.fixture
def here(tmp_path):
    (tmp_path / "net.py").write_text(CODE)
    return tmp_path


def hpctrain(here, *words, **variables):
    line = [sys.executable, "-m", "hpctrain.cli", *words]
    environment = os.environ | {
        "MY_CANARY": CANARY,
        "XDG_CACHE_HOME": str(here / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        line, cwd=here, env=environment | variables, capture_output=True, text=True, timeout=200
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("variables", [{}, {"FAIL": "8"}], ids=["done", "failed"])
@pytest.mark.parametrize("command", ["train", "submit"])
def test_no_secret_is_written_or_shown(here, command, variables):
    code, said = hpctrain(here, command, *WORDS, "cluster=local", **variables)
    assert code == (1 if command == "train" and variables else 0), said
    shown = [
        said,
        hpctrain(here, "logs", "-f")[1],
        hpctrain(here, "status", "--json")[1],
        hpctrain(here, "report", "s")[1],
    ]
    assert "using ***" in shown[1]
    assert ("401 for https://***@host/x" in shown[2]) == bool(variables)
    written = [path for path in here.rglob("*") if path.is_file()]
    assert {"identity.json", "state.json", "rank_0.log", "provenance.json"} <= {path.name for path in written}
    assert variables or any(path.name == "meta.json" for path in written)
    assert not [path for path in written if CANARY.encode() in path.read_bytes()]
    assert CANARY not in "".join(shown)


@pytest.mark.parametrize("command", ["train", "submit"])
def test_a_network_that_fails_before_anything_starts_shows_none(here, command):
    code, said = hpctrain(here, command, *WORDS, "cluster=local", FAIL="2")
    assert code == 2
    assert "net.py, line 16" in said
    assert "401 for https://***@host/x" in said
    assert CANARY not in said
    assert not (here / "runs").exists()
