"""Every architecture trains real steps on real data with two Horovod ranks, and its loss falls.

Small widths, the product's own loop; networks that share their code and differ in depth alone: make test-long.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hpctrain.data.derive import load
from hpctrain.launch.prepare import prepare
from hpctrain.models.settings import SETTINGS
from hpctrain.storage.records import train_records

COMMON = (
    "resources.ranks=2",
    "optimizer=adam",
    "schedule=constant",
    "train.log_every=1000",
    "checkpoint.asynchronous=false",
)
DIGITS = (
    "data=digits",
    "data.train_limit=64",
    "data.validation_limit=16",
    "train.batch_size=16",
    "optimizer.lr=3e-3",
    "train.epochs=6",
)
ALEXNET = (
    *DIGITS,
    "data.pad=26",
    "data.shape=[1,68,68]",
    "model.channels=[16,16,16,16,16]",
    "model.hidden=64",
    "model.dropout=0",
    "train.epochs=14",
)
VGG = (
    *DIGITS,
    "model.width=8",
    "model.hidden=32",
    "model.batch_norm=true",
    "model.dropout=0",
    "train.epochs=16",
)
RESNET = (*DIGITS, "model.stem=cifar", "model.width=4")
TEXT = (
    "data=text",
    f"data.path={argparse.__file__}",
    "task=language_model",
    "data.sequence_length=20",
    "train.batch_size=16",
    "train.steps=40",
    "optimizer.lr=5e-3",
    "model.embedding=24",
    "model.hidden=24",
    "train.log_every=10",
)
SPEECH = (
    "data=espeak",
    "task=speech_recognition",
    "data.train_samples=64",
    "data.validation_samples=8",
    "train.batch_size=8",
    "train.epochs=4",
    "optimizer.lr=3e-3",
    "model.hidden=24",
    "model.layers=2",
    "model.conv_channels=[4,8]",
    "model.conv_kernels=[[41,11],[21,11]]",
    "model.conv_strides=[[4,4],[4,1]]",
    "model.norm_affine=true",
    "model.bias=true",
)
PAIRS = (
    "data=gettext",
    "task=translation",
    "data.train_limit=256",
    "data.validation_limit=16",
    "data.sequence_length=8",
    "data.vocabulary_size=300",
    "train.batch_size=16",
    "train.epochs=4",
    "optimizer.lr=5e-3",
    "model.encoder_layers=3",
)

IMAGES = {
    "perceptron": ("model=perceptron", *DIGITS),
    "mlp": ("model=mlp", *DIGITS, "model.hidden=[32,32]"),
    "lenet": ("model=lenet", *DIGITS),
    "lenet-1998": ("model=lenet", "model.variant=1998", *DIGITS),
    "alexnet": ("model=alexnet", *ALEXNET),
    "vgg11": ("model=vgg11", *VGG),
    "googlenet": ("model=googlenet", "model.variant=torchvision", "model.auxiliary=true", *DIGITS, "model.width=0.125"),
    "resnet18": ("model=resnet18", *RESNET),
    "resnet50": ("model=resnet50", "model.version=v1", *RESNET),
}  # fmt: skip
RECURRENT = {
    "rnn": ("model=rnn", *TEXT),
    "birnn": ("model=birnn", *TEXT, "task=masked_language_model"),
    "gru": ("model=gru", *TEXT, "model.input=one_hot"),
    "lstm": ("model=lstm", *TEXT, "model.tied=true"),
    "deep_speech2": ("model=deep_speech2", *SPEECH),
    "deep_speech2-streaming": ("model=deep_speech2", *SPEECH, "model.cell=gru", "model.bidirectional=false",
                               "model.lookahead=4"),
    "gnmt": ("model=gnmt", *PAIRS, "model.hidden=24", "model.decoder_layers=2"),
    "gnmt_moe": ("model=gnmt_moe", *PAIRS, "model.width=24", "model.hidden=32", "model.attention=16", "model.groups=2",
                 "model.experts_per_group=4", "model.expert_hidden=16", "model.active=1", "model.gate_noise=true"),
}  # fmt: skip
DEEPER = {
    **{name: (f"model={name}", *VGG) for name in ("vgg13", "vgg16", "vgg19")},
    **{name: (f"model={name}", *RESNET) for name in ("resnet34", "resnet101", "resnet152")},
    "googlenet-paper": ("model=googlenet", *DIGITS, "model.width=0.25", "model.dropout=0"),
}


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory):
    """Spoken once, tokenised once."""
    return tmp_path_factory.mktemp("cache")


def train(cases, folder, cache, monkeypatch):
    """Run all `cases` on two ranks in one pair of processes; gives each one's records and state."""
    monkeypatch.setenv("HPCTRAIN_CACHE", str(cache))
    root = f"run.root={folder}"
    runs = {name: prepare(load([*COMMON, *case, root, f"run.name={name}"])) for name, case in cases.items()}
    as_root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    flags = ["--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]
    worker = [
        sys.executable,
        str(Path(__file__).with_name("ranks_worker.py")),
        *(str(r.path) for r in runs.values()),
    ]
    done = subprocess.run(
        [shutil.which("mpirun"), *as_root, "-np", "2", *flags, *worker],
        cwd=folder, capture_output=True, text=True, timeout=280,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"},
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return runs


def assert_learned(runs):
    losses = {}
    for name, run in runs.items():
        state, records = run.read_state(), train_records(run.metrics_file)
        assert (state.reason, state.ranks) == ("DONE", 2), name
        assert len(records) >= 3, name
        losses[name] = [record.scores["loss"] for record in records]
        assert all(
            r.flops > 0 and r.mfu > 0 and r.roofline_share > 0 for r in (one.rates for one in records)
        ), name
        assert json.loads(run.metrics_file.read_text().splitlines()[-1])["kind"] == "summary", name
    stuck = {name: values for name, values in losses.items() if values[-1] >= 0.9 * values[0]}
    assert not stuck


@pytest.mark.parametrize("cases", [IMAGES, RECURRENT], ids=["convolutional", "recurrent"])
def test_every_architecture_learns_on_two_ranks(cases, tmp_path, shared_cache, monkeypatch):
    assert_learned(train(cases, tmp_path, shared_cache, monkeypatch))


@pytest.mark.long
def test_the_deeper_ones_learn_too(tmp_path, shared_cache, monkeypatch):
    assert_learned(train(DEEPER, tmp_path, shared_cache, monkeypatch))


def test_no_architecture_is_left_out():
    tried = {
        case[0].removeprefix("model=") for cases in (IMAGES, RECURRENT, DEEPER) for case in cases.values()
    }
    assert tried == set(SETTINGS)
