"""How near the step of each network comes to what this machine can do: `hpctrain bench`, network by network.

    python tests/benchmarks/roofline.py [--json FILE] [NETWORK ...]

One process with all cores, noise as data (the LSTM: its text), precision=auto. Prints the share of the
measured roofline, MFU, and what a step spends outside its passes, update and sums. Asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

IMAGES = "data=synthetic"
SMALL = (IMAGES, "data.shape=[3,32,32]", "data.num_classes=10")
# Settings, and steps that take some seconds in all.
NETWORKS = {
    "lenet": (
        (
            IMAGES,
            "data.shape=[1,32,32]",
            "data.num_classes=10",
            "data.train_samples=40000",
            "train.batch_size=64",
            "precision=auto",
        ),
        500,
    ),
    "resnet18": ((*SMALL, "model.stem=cifar", "train.batch_size=16", "precision=auto"), 25),
    "alexnet": ((IMAGES, "train.batch_size=32", "precision=auto"), 15),
    "vgg16": ((IMAGES, "train.batch_size=4", "precision=auto"), 15),
    "googlenet": ((IMAGES, "train.batch_size=8", "precision=auto", "optimizer.lr=1e-4"), 15),
    "resnet50": ((IMAGES, "train.batch_size=8", "precision=auto"), 15),
    "resnet152": ((IMAGES, "train.batch_size=4", "precision=auto"), 15),
    "lstm": (("experiment=char_lstm_python", "train.batch_size=32", "precision=auto"), 25),
}


def bench(name):
    """The document of `hpctrain bench`, in a folder of its own."""
    settings, steps = NETWORKS[name]
    words = [*([] if settings[0].startswith("experiment=") else [f"model={name}"]), *settings]
    flags = ["--json", "--steps", str(steps), *(["--synthetic"] if IMAGES in settings else [])]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "hpctrain.cli", "bench", *words, f"run.root={folder}/runs", *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr}")
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--json", help="write the raw figures here")
    args = parser.parse_args()
    unknown = set(args.networks) - set(NETWORKS)
    if unknown:
        parser.error(f"{', '.join(unknown)}: must be of {', '.join(NETWORKS)}")
    found = {}
    print(
        f"{'network':10} {'format':6} {'samples/s':>12} {'step':>12} {'roofline':>9} {'MFU':>7} {'rest':>12}"
    )
    for name in args.networks or NETWORKS:
        found[name] = bench(name)
        step = found[name]["steps"][0]
        print(
            f"{name:10} {found[name]['precision']:6} {step['samples_per_s']:12,.1f} {1e3 * step['step_s']:9,.2f} ms"
            f" {step['roofline_share']:9.1%} {step['mfu']:7.1%} {1e6 * step['parts_s']['rest']:9,.0f} µs",
            flush=True,
        )
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
