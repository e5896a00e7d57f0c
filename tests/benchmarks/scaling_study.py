"""A strong-scaling study on shaped links, twice: do they agree, what do they cost?

    sudo .venv/bin/python tests/benchmarks/scaling_study.py [--minutes 3] [--json FILE]

Runs `hpctrain scale` on the development cluster at 2.5 Gbit/s: 1, 2 and 4 nodes of one rank that waits where an
accelerator would compute (waiting.py), and other settings of the exchange on four. Prints each point's speed-up in both
studies with its 95 % interval and whether they agree, the node-seconds of a point, and how long `report` and `predict`
to 1,024 GPUs take. What --minutes leave undone is done by the next call. Asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path

from predicted_vs_measured import NETWORKS, hpctrain, script, wait

STUDIES = ("strong", "strong-again")
KNOBS = "{bucket_mb:[25],compression:[fp16],cycle_time_ms:[5]}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--root", type=Path, default=Path("/var/tmp/hpctrain-scaling-ring"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--show", action="store_true", help="only show what was measured before")
    args = parser.parse_args()
    if not args.show:
        try:
            measure(args.root, time.monotonic() + 60 * args.minutes)
        except TimeoutError:
            print("out of time: call again to go on", flush=True)
            return
    found = {
        "command": f"hpctrain scale {' '.join(words('strong', Path('RUNS')))}",
        "studies": {name: report(name, args.root) for name in STUDIES},
        "node_seconds_a_run": node_seconds(args.root),
        "seconds": {
            "report": timed("report", "strong", "--root", str(args.root)),
            "predict": timed("predict", *many(args.root)),
        },
    }  # fmt: skip
    show(found)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(root, end_s):
    script("up")
    script("shape", "--rate", "2500mbit")
    wait(hpctrain("scale", "--calibrate", *words("strong", root), "--json"), end_s)
    wait(hpctrain("scale", *words(STUDIES[0], root), f"scaling.knobs={KNOBS}", "--json"), end_s)
    wait(hpctrain("scale", *words(STUDIES[1], root), "scaling.seed=1", "--json"), end_s)


def words(study, root):
    return [
        *(w for w in NETWORKS["waiting-parameter-heavy"] if "batch_size" not in w), "train.batch_size=64",
        "cluster=devcluster", "cluster.gpus_per_node=1", "cluster.link_gbit_per_s=2.5", "resources.threads_per_rank=1",
        "scaling=strong", "scaling.gpus=1,2,4", "scaling.windows=3", "scaling.window_steps=8", "scaling.algorithm=ring",
        "scaling.profile_steps=3", "scaling.timeout_min=5", f"run.root={root}", f"run.study={study}",
    ]  # fmt: skip


def many(root):
    return [w for w in words("strong", root) if not w.startswith(("scaling.gpus", "scaling=", "run.study"))] + [
        "cluster.max_nodes=2000", "scaling=weak", "scaling.gpus=1..1024"
    ]  # fmt: skip


def report(study, root):
    return json.loads(hpctrain("report", study, "--root", str(root), "--json"))["data"]["own"]


def node_seconds(root):
    """Of each count: from the job's first process to its end, as Slurm's batch script wrote them, times the nodes."""
    found = {}
    for folder in sorted((root / "strong").glob("g*-r*")):
        state = json.loads((folder / "state.json").read_text())
        nodes = int(folder.name.split("-")[0][1:])
        found.setdefault(nodes, []).append(round(nodes * (state["heartbeat"] - state["started"]), 1))
    return found


def timed(*command, times=5):
    """Seconds of the command, each time it is started anew."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        hpctrain(*command)
        taken.append(round(time.perf_counter() - start, 3))
    return taken


def show(found):
    first, second = (found["studies"].get(name, {"rows": []})["rows"] for name in STUDIES)
    for a, b in zip(first, second, strict=False):
        for key in ("samples_per_s", "speedup"):
            apart = abs(a[key] - b[key])
            halves = math.hypot(a[f"{key}_half"] or 0, b[f"{key}_half"] or 0)
            print(
                f"{a['gpus']} GPUs: {key} {a[key]:.4g} ± {a[f'{key}_half'] or 0:.2g} and {b[key]:.4g} ± "
                f"{b[f'{key}_half'] or 0:.2g}: {'agree' if apart <= halves else 'DIFFER'}"
            )
    for name, study in found["studies"].items():
        print(name, *study["finding"], sep="\n  ")
    for gpus, seconds in found["node_seconds_a_run"].items():
        print(f"{gpus} GPUs: {statistics.median(seconds):.0f} node-seconds a run")
    for what, seconds in found["seconds"].items():
        print(f"{what}: median {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")


if __name__ == "__main__":
    main()
