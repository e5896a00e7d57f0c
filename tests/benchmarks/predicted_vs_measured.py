"""Step times that the model predicts beside those that real jobs take, on links that tc shapes.

    sudo .venv/bin/python tests/benchmarks/predicted_vs_measured.py [--minutes 60] [--out FILE.csv]

Brings up a development cluster, calibrates on one node and at 2.5 Gbit/s alone, then measures weak scaling on 1, 2
and 4 nodes of one rank and 1 and 2 nodes of two, over 1, 2.5 and 10 Gbit/s, for a network that computes much and one
that has many parameters. Prints each error and their median; the table goes to --out. What --minutes leave
undone is done by the next call (--root keeps it). Asserts nothing.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAME = "scaling"
RATES = {"2.5": "2500mbit", "1": "1gbit", "10": "10gbit"}
NETWORKS = {
    "compute-heavy": ["experiment=lenet_fashion_mnist", "train.batch_size=256"],
    "parameter-heavy": [
        "experiment=lenet_fashion_mnist", "model=mlp", "model.hidden=[1024,1024]", "train.batch_size=128",
    ],
}  # fmt: skip
SHAPES = {1: (1, 2, 4), 2: (2, 4)}  # GPUs a node: counts


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--root", type=Path, default=Path("/var/tmp/hpctrain-scaling"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--down", action="store_true", help="only take the cluster down")
    args = parser.parse_args()
    end_s = time.monotonic() + 60 * args.minutes
    if args.down:
        script("down")
        return
    if os.geteuid() != 0:
        sys.exit("needs root: the development cluster makes namespaces and links")
    script("up")
    try:
        for name, words in NETWORKS.items():
            calibrate(name, words, args.root, end_s)
        for rate in RATES:
            script("shape", "--rate", RATES[rate])
            for name, words in NETWORKS.items():
                for per_node, counts in SHAPES.items():
                    measure(name, words, rate, per_node, counts, args.root, end_s)
    except TimeoutError:
        print("out of time: call again to go on", flush=True)
    rows = [row for name, words in NETWORKS.items() for row in results(name, words, args.root)]
    show(rows)
    if args.out and rows:
        with args.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def study_settings(name, words, rate, per_node, counts, root):
    return [
        *words, "cluster=devcluster", "resources.threads_per_rank=1", "scaling=weak", f"cluster.link_gbit_per_s={rate}",
        f"resources.gpus_per_node={per_node}", f"scaling.gpus={','.join(map(str, counts))}", "scaling.repeats=1",
        "scaling.windows=3", "scaling.window_steps=8", "scaling.timeout_min=5", f"run.root={root}",
        f"run.study={name}-{rate}g-{per_node}",
    ]  # fmt: skip


def calibrate(name, words, root, end_s):
    script("shape", "--rate", RATES["2.5"])
    settings = study_settings(name, words, "2.5", 1, (1, 2), root)
    wait(hpctrain("scale", "--calibrate", *settings, "--json"), end_s)


def measure(name, words, rate, per_node, counts, root, end_s):
    wait(hpctrain("scale", *study_settings(name, words, rate, per_node, counts, root), "--json"), end_s)


def wait(answer, end_s):
    """Until the submitted jobs are over; past the end they are cancelled, to be done by another call."""
    jobs = json.loads(answer)["submitted"]
    while jobs and slurm("squeue", "--noheader", f"--jobs={','.join(jobs)}").strip():
        if time.monotonic() > end_s:
            slurm("scancel", *jobs)
            time.sleep(3)
            raise TimeoutError
        time.sleep(0.5)


def results(name, words, root):
    """One row a rate and shape: predicted from the calibration, measured, and their ratio."""
    for rate in RATES:
        for per_node, counts in SHAPES.items():
            settings = study_settings(name, words, rate, per_node, counts, root)
            study = settings[-1].removeprefix("run.study=")
            done = run("report", study, "--root", str(root), "--json", "--no-html", check=False)
            if done.returncode:
                continue
            predicted = json.loads(hpctrain("predict", *settings, "--json"))["points"]
            for row in json.loads(done.stdout)["data"]["own"]["rows"]:
                point = next(p for p in predicted if p["gpus"] == row["gpus"])
                yield {
                    "network": name,
                    "gbit_per_s": rate,
                    "nodes": row["nodes"],
                    "ranks_per_node": row["gpus"] // row["nodes"],
                    "repeats": row["repeats"],
                    "measured_ms": round(row["step_ms"], 3),
                    "measured_half_ms": round(row["step_ms_half"] or 0, 3),
                    "predicted_ms": round(1e3 * point["step_s"], 3),
                    "predicted_low_ms": round(1e3 * point["low_s"], 3),
                    "predicted_high_ms": round(1e3 * point["high_s"], 3),
                    "error": round(1e3 * point["step_s"] / row["step_ms"] - 1, 4),
                }


def show(rows):
    for row in rows:
        print("  ".join(f"{value!s:>12}" for value in row.values()))
    if rows:
        errors = [abs(row["error"]) for row in rows]
        print(
            f"median |error| {statistics.median(errors):.1%}, worst {max(errors):.1%}, of {len(errors)} points"
        )


def run(*words, check=True):
    line = [sys.executable, "-m", "hpctrain.cli", *words]
    return subprocess.run(line, check=check, capture_output=True, text=True, env=environment())


def hpctrain(*words):
    done = run(*words, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def slurm(*words):
    return subprocess.run(words, capture_output=True, text=True, env=environment()).stdout


def script(*words):
    subprocess.run([sys.executable, str(ROOT / "slurm" / "devcluster"), *words, "--name", NAME], check=True)


def environment():
    folder = Path("~/.local/state/hpctrain/devcluster").expanduser() / NAME
    return os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}


if __name__ == "__main__":
    main()
