"""Figures of the Slurm side, on a real cluster: python tests/benchmarks/slurm_figures.py [--runs 10000] [--repeat 5]

Brings a development cluster up for itself (root) and prints, each as a median with its range:
  status of many runs, a tenth of them open, with the number of squeue calls and the memory it took;
  submitit's own look at one of its jobs, which asks sacct for it;
  submit of one job, by hpctrain and by submitit's executor;
  from submit to the first training step on 2 nodes x 2 ranks of the idle cluster, beside from submit to the first
  line of a function of as many submitit tasks, which imports nothing, and of a Hydra application of one task by
  hydra-submitit-launcher, which waits for its jobs. --peers DIR is where that is installed: pip install --no-deps
  --target DIR hydra-submitit-launcher; without it that line is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hpctrain.config import compose
from hpctrain.config.load import from_dict, to_dict
from hpctrain.storage.search import locate

ROOT = Path(__file__).parents[2]
HPCTRAIN = [sys.executable, "-m", "hpctrain.cli"]
JOB = (
    "lenet_digits", "cluster=devcluster", "resources.nodes=2", "resources.gpus_per_node=2", "train.steps=20",
    "train.log_every=1",
)  # fmt: skip
LATER = ("+cluster.sbatch.begin=now+1hour",)  # a job that began would take the cores from the next submit


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--peers", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hpctrain-figures-", dir="/var/tmp") as scratch:
        folder = Path(scratch)
        script = [ROOT / "slurm" / "devcluster"]
        named = ["--name", f"bench{os.getpid()}", "--dir", folder / "cluster"]
        subprocess.run([*script, "up", *named], check=True, stdout=subprocess.DEVNULL)
        os.environ["SLURM_CONF"] = str(folder / "cluster" / "slurm.conf")
        try:
            for line in figures(folder, args.runs, args.repeat, args.peers):
                print(line, flush=True)
        finally:
            subprocess.run([*script, "down", *named], check=True, stdout=subprocess.DEVNULL)


def figures(folder: Path, runs: int, repeat: int, peers: Path | None) -> Iterator[str]:
    make_runs(folder / "many", runs)
    calls, path = counted_squeue(folder)
    took = [
        timed([*HPCTRAIN, "status", "--root", folder / "many", "--json"], PATH=path) for _ in range(repeat)
    ]
    most_mb = max(memory_mb for _, memory_mb in took)
    yield (
        f"status of {runs} runs: {spread([s for s, _ in took])} s, {calls.read_text().count('x') // repeat} squeue "
        f"call, at most {most_mb:.0f} MB"
    )
    yield f"submitit: state of one job: {spread(submitit_state(folder, repeat))} s, 1 sacct call"
    one = [
        timed([*HPCTRAIN, "submit", *JOB, *LATER, f"run.root={folder}/one", f"seed={i}"])[0]
        for i in range(repeat + 1)
    ]
    yield f"submit of one job: {spread(one[1:])} s ({one[0]:.2f} s the first time, when its FLOPs are counted)"
    yield f"submitit: submit of one job: {spread(submitit_submit(folder, repeat))} s"
    subprocess.run(["scancel", "--user=root"], check=True)
    wait_for(lambda: not subprocess.check_output(["squeue", "--noheader"]))
    steps = [first_step(folder / "first", i) for i in range(repeat)]
    yield f"submit to first training step, 4 ranks: {spread(steps)} s"
    lines = [first_line(folder, i) for i in range(repeat)]
    yield f"submitit: submit to first line, 4 tasks: {spread(lines)} s"
    if peers:
        hydra = [hydra_first_line(folder, i, peers) for i in range(repeat)]
        first, whole = zip(*hydra, strict=True)
        text = f"start to first line, 1 task: {spread(first)} s; to its return {spread(whole)} s"
        yield f"hydra-submitit-launcher: {text}"


def make_runs(root: Path, count: int) -> None:
    """Run folders as they are in a large study: nine tenths done, the others at work."""
    plain = to_dict(from_dict(compose.compose(["lenet_digits", "cluster=devcluster"])))
    for i in range(count):
        run = locate(str(root), f"study{i % 10}", f"lenet-digits-{i:010d}")
        run.path.mkdir(parents=True)
        if i == 0:
            run.create(plain)
            text = run.config_file.read_text()
        run.config_file.write_text(text)
        phase = "running" if i % 10 == 0 else "done"
        state = {"phase": phase, "step": 50, "total_steps": 100, "attempt": 1, "reason": None}
        state |= {"heartbeat": time.time() + 600, "figures": {"loss": 0.3, "accuracy": 0.9}}
        run.state_file.write_text(json.dumps(state))
        facts = {"cluster": "devcluster", "token": "t", "job_ids": [str(10**6 + i)], "open": False}
        run.submission_file.write_text(json.dumps(facts | {"slurm_conf": os.environ["SLURM_CONF"]}))


def counted_squeue(folder: Path) -> tuple[Path, str]:
    """A squeue that leaves an x for each call, and the PATH on which it is the first."""
    calls, fake = folder / "calls", folder / "bin" / "squeue"
    fake.parent.mkdir()
    calls.touch()
    fake.write_text(f'#!/bin/sh\nprintf x >>{calls}\nexec {shutil.which("squeue")} "$@"\n')
    fake.chmod(0o755)
    return calls, f"{fake.parent}:{os.environ['PATH']}"


def timed(command: list[Any], **environment: str) -> tuple[float, float]:
    """Seconds and MB of memory that a command takes."""
    began = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL)
    _, code, usage = os.wait4(process.pid, 0)
    process.returncode = code
    assert code == 0, command
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def spread(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f}-{max(seconds):.2f})"


def wait_for(ready: Callable[[], object]) -> None:
    while not ready():
        time.sleep(0.02)


def executor(folder: Path, tasks: int) -> Any:
    import submitit

    made = submitit.SlurmExecutor(folder / "submitit")
    half = tasks // 2
    made.update_parameters(
        nodes=2, ntasks_per_node=half, gpus_per_node=half, time=5, srun_args=["--mpi=pmix"]
    )
    return made


def submitit_submit(folder: Path, repeat: int) -> list[float]:
    took = []
    for _ in range(repeat):
        began = time.perf_counter()
        code = (
            "import submitit,time;e=submitit.SlurmExecutor(%r);"
            "e.update_parameters(time=5,additional_parameters={'begin':'now+1hour'});e.submit(time.sleep,1)"
        )
        subprocess.run([sys.executable, "-c", code % str(folder / "submitit")], check=True)
        took.append(time.perf_counter() - began)
    return took


def submitit_state(folder: Path, repeat: int) -> list[float]:
    import submitit

    job = executor(folder, 2).submit(time.sleep, 0)
    took = []
    for _ in range(repeat):
        began = time.perf_counter()
        submitit.SlurmJob(folder=folder / "submitit", job_id=job.job_id).get_info(mode="force")
        took.append(time.perf_counter() - began)
    return took


def first_step(root: Path, seed: int) -> float:
    began = time.time()
    line = [*HPCTRAIN, "submit", *JOB, f"run.root={root}", f"seed={seed}"]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    (run,) = (path.parent for path in root.glob("*/*/config.yaml") if f"\nseed: {seed}\n" in path.read_text())
    wait_for(lambda: (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text().count("\n") > 0)
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    wait_for(lambda: json.loads((run / "state.json").read_text())["phase"] == "done")
    wait_for(lambda: not subprocess.check_output(["squeue", "--noheader"]))
    return float(first["time"]) - began


def first_line(folder: Path, number: int) -> float:
    file = folder / f"line{number}"
    began = time.time()
    executor(folder, 4).submit(write_time, str(file))
    wait_for(lambda: file.exists() and file.read_text().endswith("\n"))
    wait_for(lambda: not subprocess.check_output(["squeue", "--noheader"]))
    return float(file.read_text()) - began


HYDRA_APP = """
import time, hydra
@hydra.main(version_base="1.3", config_path=None)
def main(config):
    open(config.file, "w").write(f"{time.time()}\\n")
main()
"""


def hydra_first_line(folder: Path, number: int, peers: Path) -> tuple[float, float]:
    """Seconds to the first line of the job's function, and to the launcher's return."""
    app, file = folder / "app.py", folder / f"hydra{number}"
    app.write_text(HYDRA_APP)
    line = ["-m", "hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=5", f"+file={file}"]
    began = time.time()
    subprocess.run(
        [sys.executable, app, *line, f"hydra.sweep.dir={folder}/multirun{number}"],
        check=True, env=os.environ | {"PYTHONPATH": str(peers)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return float(file.read_text()) - began, time.time() - began


def write_time(path: str) -> None:
    if os.environ["SLURM_PROCID"] == "0":
        Path(path).write_text(f"{time.time()}\n")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    main()
