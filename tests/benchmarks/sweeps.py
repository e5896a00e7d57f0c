"""Figures of sweeps: slots kept busy, asha beside the full grid, 1,000 runs submitted and reported.

    python tests/benchmarks/sweeps.py [slots|asha|submit|report|hydra ...] [--json FILE] [--hydra-python PYTHON]

`slots` and `submit` bring up a development cluster of 4 nodes with 4 fake GPUs each (root); `asha` and `report`
need nothing. `hydra` runs one sweep both by `hpctrain sweep` and by Hydra's submitit launcher, in turns, and needs
an interpreter that has hydra-submitit-launcher. Prints what it measured; asserts nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEVCLUSTER = [sys.executable, str(ROOT / "slurm" / "devcluster")]
ON_CLUSTER = ("cluster=devcluster", "resources.gpus_per_node=1", "resources.threads_per_rank=1")


def hpctrain(folder, *words, python=sys.executable, environment=None):
    """(seconds, stdout) of one command."""
    began = time.perf_counter()
    done = subprocess.run(
        [python, "-W", "ignore", "-m", "hpctrain.cli", *map(str, words)],
        cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}), capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - began, done.stdout


@contextlib.contextmanager
def cluster(folder):
    """Slurm's environment on a cluster of our own."""
    name = f"bench{os.getpid()}"
    where = ["--name", name, "--dir", str(folder / "cluster")]
    subprocess.run([*DEVCLUSTER, "up", *where], check=True, capture_output=True)
    try:
        yield {"SLURM_CONF": str(folder / "cluster" / "slurm.conf")}
    finally:
        subprocess.run([*DEVCLUSTER, "down", *where], check=True, capture_output=True)


def call(environment, *command):
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def drain(environment):
    while call(environment, "squeue", "--noheader"):
        time.sleep(0.5)


def slots(folder, args):
    """200 LeNet runs on 16 fake GPUs: what share of the time that Slurm gave the jobs did runs take?"""
    words = ("lenet_digits", f"train.epochs={args.epochs}", *ON_CLUSTER, "run.study=slots")
    with cluster(folder) as environment:
        began = time.time()
        hpctrain(
            folder, "sweep", *words, "optimizer.lr=0.01,0.02,0.05,0.1", "seed=range(50)",
            f"sweep.runs_at_once={args.lanes}", f"sweep.jobs={16 // args.lanes}",
            f"sweep.runs_per_job={200 * args.lanes // 16}", environment=environment,
        )  # fmt: skip
        drain(environment)
        wall_s = time.time() - began
        elapsed = call(environment, "sacct", "-X", "--noheader", "--parsable2", "--format=ElapsedRaw")
    claims = [json.loads(file.read_text()) for file in (folder / "runs/slots/.study/claims").glob("*.json")]
    claims = [c for c in claims if "job" in c]  # others were given back at once: somebody had done that run
    ended = list((folder / "runs/slots/.study/ended").glob("*.json"))
    given_s = args.lanes * sum(map(int, elapsed.split()))
    busy_s = sum(c["until"] - c["began"] for c in claims)
    # Between its first run's beginning and its last run's end: without the start of the job itself.
    jobs = {}
    for c in claims:
        jobs.setdefault(c["job"], []).append((c["began"], c["until"]))
    spans_s = [max(u for _, u in turns) - min(b for b, _ in turns) for turns in jobs.values()]
    between_s = args.lanes * sum(spans_s)
    return {
        "runs": len(ended), "done": sum(json.loads(f.read_text())["phase"] == "done" for f in ended),
        "jobs": len(jobs), "wall_s": wall_s, "slot_s": given_s, "busy_s": busy_s,
        "share_of_slot_time": busy_s / given_s, "share_between_runs": busy_s / between_s,
    }  # fmt: skip


def asha(folder, args):
    """27 settings of LeNet-5 on the digits, 9 epochs: the full grid, and asha over the same settings."""
    words = (
        "lenet_digits", "train.epochs=9", "resources.threads_per_rank=1", "sweep.jobs=2", "sweep.metric=accuracy",
        "optimizer.lr=0.0003,0.001,0.003,0.01,0.03,0.1,0.2,0.5,1", "optimizer.momentum=0.0,0.5,0.9",
    )  # fmt: skip
    figures = {}
    for name, more in (("grid", ()), ("asha", ("sweep.pruner=asha", "sweep.reduction=3"))):
        began = time.time()
        hpctrain(folder, "sweep", *words, *more, f"run.study={name}")
        jobs = folder / "runs" / name / ".study" / "jobs"
        while [json.loads(file.read_text())["until"] is None for file in jobs.glob("*.json")] != [False] * 2:
            time.sleep(0.5)
        _, out = hpctrain(folder, "report", name, "--json", "--no-html")
        found = json.loads(out)
        figures[name] = {
            "best": found["settings"][0]["mean"], "best_params": found["settings"][0]["params"],
            "epochs": sum(run["epochs"] for run in found["runs"]), "wall_s": time.time() - began,
        }  # fmt: skip
    figures["share_of_epochs"] = figures["asha"]["epochs"] / figures["grid"]["epochs"]
    return figures


def submit(folder, args):
    """1,000 runs into the queue of a cluster that has no room for them; the median of three studies."""
    seconds, arrays = [], []
    with cluster(folder) as environment:
        call(environment, "scontrol", "update", "NodeName=node[1-4]", "State=DRAIN", "Reason=bench")
        for study in "abc":
            words = ("lenet_digits", *ON_CLUSTER, "optimizer.lr=range(0.01,0.11,0.01)", "seed=range(100)")
            took_s, out = hpctrain(
                folder, "sweep", *words, f"run.study={study}", "--json", environment=environment
            )
            seconds.append(took_s)
            arrays.append(json.loads(out)["arrays"])
            call(environment, "scancel", "--user=root")
    return {
        "runs": 1000,
        "seconds": seconds,
        "median_s": statistics.median(seconds),
        "sbatch_calls": len(arrays[0]),
    }


WRITE_STUDY = """
import json, math, random, sys, time
from dataclasses import asdict
from pathlib import Path
from hpctrain import compose_sweep
from hpctrain.sweep import space
from hpctrain.sweep.study_dir import StudyDir, Work
rng, now = random.Random(0), time.time()
words = ["lenet_digits", "optimizer.lr=" + ",".join(f"{10 ** (-3 + n / 8):.4g}" for n in range(20)),
         "optimizer.momentum=0.0,0.9", "schedule=constant,cosine,step,linear,exponential", "seed=range(5)"]
fixed, swept = compose_sweep.parse(words)
from hpctrain.sweep.settings import SweepConfig
composer = compose_sweep.Composer(fixed)
study = StudyDir(Path(sys.argv[1])); study.create()
trials = [space.trial(composer, o)[0] for o in space.combinations(SweepConfig(), swept)]
study.add_part({"fixed": fixed, "space": space.as_json(swept), "sweep": asdict(SweepConfig()),
                "task": "classification", "trials": [asdict(t) for t in trials]})
for t in trials:
    run = study.run(t.run_id); run.path.mkdir(mode=0o700)
    top = 0.97 - 0.08 * (math.log10(t.params["optimizer.lr"]) + 1.2 + t.params["optimizer.momentum"]) ** 2
    lines = []
    for epoch in range(1, 21):
        value = max(0.1, top * (1 - math.exp(-epoch / 4)) + rng.gauss(0, 0.01))
        lines += [{"kind": "train", "step": epoch * 45 - k, "epoch": epoch, "loss": 1 - value, "samples_per_s": 1.0,
                   "step_ms": {"data": 1.0, "forward": 2.0, "backward": 3.0}} for k in (20, 0)]
        lines.append({"kind": "validation", "step": epoch * 45, "epoch": epoch, "loss": 1 - value, "accuracy": value})
    run.metrics_file.write_text("".join(json.dumps(line) + "\\n" for line in lines))
    run.state_file.write_text(json.dumps({"phase": "done", "reason": "DONE", "ranks": 1,
                                          "summary": {"elapsed_s": 20.0, "flops_total": 1e11}}))
    (study.folder / "ended" / f"{t.run_id}.0.json").write_text(
        json.dumps({"value": value, "epochs": 20, "phase": "done", "reason": "DONE", "detail": None}))
    (study.claims / f"{t.run_id}.0.1.json").write_text(json.dumps({"began": now, "until": now + 20, "outcome": "done"}))
print(len(trials))
"""


def report(folder, args):
    """The report of 1,000 finished runs of 20 epochs, page and all; files as the jobs of a study leave them."""
    (folder / "runs").mkdir()
    written = subprocess.run(
        [sys.executable, "-c", WRITE_STUDY, str(folder / "runs" / "big")],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds = [hpctrain(folder, "report", "big")[0] for _ in range(5)]
    return {"runs": int(written.stdout), "seconds": seconds, "median_s": statistics.median(seconds)}


def hydra(folder, args):
    """The same 16 small runs by `hpctrain sweep` and by Hydra's submitit launcher, three times in turns."""
    base = ("lenet_digits", "train.epochs=1", "resources.threads_per_rank=1")
    figures: dict[str, list[float]] = {"hpctrain": [], "hpctrain_returns": [], "hydra": []}
    with cluster(folder) as environment:
        for turn in range(args.rounds):
            began = time.time()
            took_s, _ = hpctrain(
                folder, "sweep", *base, *ON_CLUSTER[:2], f"run.study=ours{turn}", "seed=range(16)", "sweep.jobs=16",
                "sweep.runs_per_job=2", environment=environment,
            )  # fmt: skip
            drain(environment)
            figures["hpctrain"].append(time.time() - began)
            figures["hpctrain_returns"].append(took_s)
            took_s, _ = hpctrain(
                folder, "train", "--multirun", *base, f"run.study=hydra{turn}", "seed=range(16)",
                "hydra/launcher=submitit_slurm", "hydra.launcher.gpus_per_node=1", "hydra.launcher.cpus_per_task=1",
                "hydra.launcher.timeout_min=20", python=args.hydra_python, environment=environment,
            )  # fmt: skip
            figures["hydra"].append(took_s)
    ratios = [ours / theirs for ours, theirs in zip(figures["hpctrain"], figures["hydra"], strict=True)]
    return figures | {"time_beside_hydra": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = {"slots": slots, "asha": asha, "submit": submit, "report": report, "hydra": hydra}
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=", ".join(known))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--hydra-python", help="an interpreter that has hydra-submitit-launcher")
    parser.add_argument("--epochs", type=int, default=2, help="of each run of `slots` (default: 2)")
    parser.add_argument("--lanes", type=int, default=4, help="GPUs, and runs at once, of each job of `slots`")
    parser.add_argument("--rounds", type=int, default=3, help="of `hydra` (default: 3)")
    args = parser.parse_args()
    wanted = args.figures or [name for name in known if name != "hydra" or args.hydra_python]
    found = {}
    for name in wanted:
        with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="hpctrain-bench-") as folder:
            found[name] = known[name](Path(folder), args)
        print(name, json.dumps(found[name], indent=1), flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
