"""Step times that the model predicts beside those that real jobs take, on links that tc shapes.

    sudo .venv/bin/python tests/benchmarks/predicted_vs_measured.py [--only NAME ...] [--minutes 3] [--json FILE]

Brings up a development cluster, calibrates each network on one node and at 2.5 Gbit/s alone, then measures weak scaling
on nodes of one and two ranks, over 2.5, 1 and 10 Gbit/s. Networks "waiting-*" wait where an accelerator would compute
(waiting.py), so that four ranks do not compete for this machine's cores; the others compute, on as many ranks as there
are cores. What --minutes leave undone is done by the next call (--root keeps it). Prints each error, their
median and the worst; --json has the calibrations and every window that was timed. Asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAME = "scale"
RATES = {"2.5": "2500mbit", "1": "1gbit", "10": "10gbit"}
CALIBRATED = "2.5"
WAITING = [
    "experiment=lenet_fashion_mnist",
    "model=custom",
    "model.target=waiting:Waiting",
    "train.batch_size=16",
]
NETWORKS = {
    "waiting-compute-heavy": [*WAITING, "+model.convolutions=[32,64,128,128]", "+model.sample_ms=2.5"],
    "waiting-parameter-heavy": [*WAITING, "+model.dense=[768,768]", "+model.sample_ms=1.5", "comm.bucket_mb=1"],
    "compute-heavy": ["experiment=lenet_fashion_mnist", "train.batch_size=256"],
    "parameter-heavy": [
        "experiment=lenet_fashion_mnist", "model=mlp", "model.hidden=[1024,1024]", "train.batch_size=128",
    ],
}  # fmt: skip


def shapes(name, rate):
    """(ranks a node, counts) of the studies; four ranks compute on four cores, or wait. One rank needs no link."""
    if name.startswith("waiting") or len(os.sched_getaffinity(0)) >= 4:
        return (1, (1, 2, 4) if rate == CALIBRATED else (2, 4)), (2, (2, 4))
    return ((1, (1, 2)), (2, (1, 2))) if rate == CALIBRATED else ((1, (1, 2)),)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--root", type=Path, default=Path("/var/tmp/hpctrain-scaling-ring"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--show", action="store_true", help="only compare what was measured before")
    parser.add_argument("--down", action="store_true", help="only take the cluster down")
    args = parser.parse_args()
    if args.down:
        script("down")
        return
    if not args.show:
        if os.geteuid() != 0:
            sys.exit("needs root: the development cluster makes namespaces and links")
        try:
            measure_all(args.only, args.root, time.monotonic() + 60 * args.minutes)
        except TimeoutError:
            print("out of time: call again to go on", flush=True)
    found = {name: document for name in args.only if (document := results(name, args.root))}
    show(found)
    if args.json and found:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


def measure_all(names, root, end_s):
    script("up")
    script("shape", "--rate", RATES[CALIBRATED])
    for name in names:
        wait(
            hpctrain("scale", "--calibrate", *settings_of(name, CALIBRATED, 1, (1, 2), root), "--json"), end_s
        )
    for rate in RATES:
        script("shape", "--rate", RATES[rate])
        for name in names:
            for per_node, counts in shapes(name, rate):
                wait(hpctrain("scale", *settings_of(name, rate, per_node, counts, root), "--json"), end_s)


def settings_of(name, rate, per_node, counts, root):
    return [
        *NETWORKS[name], "cluster=devcluster", "cluster.gpus_per_node=4", "resources.threads_per_rank=1",
        f"cluster.link_gbit_per_s={rate}", f"resources.gpus_per_node={per_node}", "scaling=weak", "scaling.repeats=1",
        f"scaling.gpus={','.join(map(str, counts))}", "scaling.windows=3", "scaling.window_steps=8",
        "scaling.profile_steps=0", "scaling.timeout_min=5",
        "scaling.algorithm=ring", f"run.root={root}", f"run.study={name}-{rate}g-{per_node}",
    ]  # fmt: skip


def wait(answer, end_s):
    """Until the submitted jobs are over; past the end they are cancelled, to be done by another call."""
    jobs = json.loads(answer)["submitted"]
    while jobs and slurm("squeue", "--noheader", f"--jobs={','.join(jobs)}").strip():
        if time.monotonic() > end_s:
            slurm("scancel", *jobs)
            time.sleep(3)
            raise TimeoutError
        time.sleep(0.5)


def results(name, root):
    """The profiles of a network's calibration, and a row a rate and shape: predicted and measured."""
    rows = []
    for rate in RATES:
        for per_node, counts in shapes(name, rate):
            settings = settings_of(name, rate, per_node, counts, root)
            study = root / settings[-1].removeprefix("run.study=")
            predicted = run("predict", *settings, "--json", check=False)
            if predicted.returncode or not study.is_dir():
                continue
            points = {p["gpus"]: p for p in json.loads(predicted.stdout)["points"]}
            for folder in sorted(study.glob("g*-r1-*")):
                gpus = int(folder.name.split("-")[0][1:])
                if windows_ms := windows(folder):
                    rows.append(row_of(name, float(rate), gpus, per_node, points[gpus], windows_ms))
    if not rows:
        return None
    settings = settings_of(name, CALIBRATED, 1, (1, 2), root)
    return {
        "settings": NETWORKS[name], "model": ["scaling.algorithm=ring"], "calibration": calibration(settings),
        "points": rows,
    }  # fmt: skip


def windows(folder):
    """Milliseconds a step of each window behind the warm-up."""
    file = folder / "metrics.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    train = [r for r in records if r["kind"] == "train"][1:]
    return [1e3 * r["window_s"] / r["window_steps"] for r in train]


def row_of(name, rate, gpus, per_node, point, windows_ms):
    measured_ms = statistics.median(windows_ms)
    nodes = max(1, gpus // per_node)
    return {
        "network": name, "gbit_per_s": rate, "nodes": nodes, "ranks_per_node": gpus // nodes,
        "windows_ms": [round(ms, 3) for ms in windows_ms], "measured_ms": round(measured_ms, 3),
        "predicted_ms": round(1e3 * point["step_s"], 3), "error": round(1e3 * point["step_s"] / measured_ms - 1, 4),
    }  # fmt: skip


def calibration(settings):
    """The profiles by shape: those that `hpctrain forecast` finds."""
    from hpctrain.scaling import calibration as calibrations
    from hpctrain.scaling.start import load

    return dict(calibrations.needed(*load(settings), "").profiles)


def show(found):
    rows = [row for document in found.values() for row in document["points"]]
    for row in rows:
        print("  ".join(f"{value!s:>9}" for value in row.values()))
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
    return os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PYTHONPATH": str(Path(__file__).parent)}


if __name__ == "__main__":
    main()
