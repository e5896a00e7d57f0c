"""`hpctrain bench`: what this machine can do at most, and how near an experiment's training step comes to it.

Takes a command line; trains a few steps as any run would, here or as a Slurm job, once with the experiment's own
data and once with noise, and prints where each millisecond goes. Side effects: processes or jobs, and run
directories in the study "bench", removed once their figures are read.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from dataclasses import dataclass, replace
from typing import Any, Literal

from hpctrain.commands.flags import take
from hpctrain.config import compose
from hpctrain.config.settings import Config
from hpctrain.data.identify import run_id
from hpctrain.errors import RunFailed, UserError
from hpctrain.launch import local
from hpctrain.launch.prepare import prepare
from hpctrain.scaling import bench_page, plan
from hpctrain.scaling.network import Shape
from hpctrain.scheduler import sbatch
from hpctrain.storage.run_dir import RunDir

HELP = """usage: hpctrain bench [--steps N] [--synthetic] [--json] [EXPERIMENT] [SETTINGS]

Measures what this machine can do at most (matrix products, memory, sums over the ranks) and the training step
of an experiment: samples/s, GFLOP/s, share of the peak and of the roofline, and where each millisecond goes.
  hpctrain bench                                        the machine alone
  hpctrain bench resources.ranks=2                      and the sums of two ranks
  hpctrain bench lenet_fashion_mnist resources.ranks=2  and a step, with the experiment's data and with noise
  hpctrain bench EXPERIMENT cluster=NAME resources.nodes=2    the same as Slurm jobs; waits for them

  --steps N      steps that are timed (default 50), in five stretches; a fifth more come before them
  --synthetic    noise of the data's shape only: no files are needed
  --json         one JSON document on stdout
"""
WINDOWS = 5
PROFILE_STEPS = 5
# Bundled, and over in a moment: what runs where only the machine is asked for.
SMALLEST = "experiment=lenet_digits"
Kind = Literal["own", "synthetic"]


@dataclass(frozen=True)
class Wanted:
    """A command line, checked."""

    config: Config
    kinds: tuple[Kind, ...]
    steps: int
    machine_only: bool
    as_json: bool


def bench(argv: list[str]) -> int:
    """The command."""
    wanted = parse(argv)
    if wanted is None:
        print(HELP, end="")
        return 0
    found = [measure(wanted, kind) for kind in wanted.kinds]
    document = bench_page.document(wanted.config, found)
    if wanted.machine_only:
        document["steps"] = []
    print(json.dumps(document) if wanted.as_json else bench_page.text(document))
    return 0


def parse(argv: list[str]) -> Wanted | None:
    """None where help is asked for. Raises UserError; starts nothing."""
    words, flags, values = take(argv, "--synthetic", "--json", steps=None)
    if "--help" in flags:
        return None
    steps = values.get("steps", "50")
    if not steps.isdigit() or int(steps) < WINDOWS:
        raise UserError("--steps", steps, f"must be a whole number ≥ {WINDOWS}")
    settings = list(compose.experiments(words))
    about = ("resources.", "comm.", "cluster", "run.")
    machine_only = all(word.startswith(about) for word in settings)
    config = compose.load([SMALLEST, *settings] if machine_only else settings)
    if config.cluster.kind == "slurm":
        from hpctrain.scheduler import submit

        sbatch.check(config)
        submit.check_here(config)
    kinds: tuple[Kind, ...] = ("own", "synthetic") if config.data.shape else ("own",)
    if machine_only:
        kinds = ("own",)
    elif "--synthetic" in flags:
        if not config.data.shape:
            raise UserError("--synthetic", "", f"noise is for images; data={config.data.name} are none")
        kinds = ("synthetic",)
    return Wanted(config, kinds, 5 if machine_only else int(steps), machine_only, "--json" in flags)


def measure(wanted: Wanted, kind: Kind) -> bench_page.Measured:
    """One short run, here or as a job. Raises RunFailed with the run's own reason."""
    config = planned(wanted, kind)
    run = prepare(config)
    print(f"hpctrain: measuring with {bench_page.DATA[kind]} ...", file=sys.stderr, flush=True)
    state = _run_here(run, config) if config.cluster.kind == "local" else _run_as_job(run, config)
    if state.get("phase") != "done":
        reason, detail = str(state.get("reason") or "INTERRUPTED"), state.get("detail") or "it did not end"
        raise RunFailed(reason, f"{detail} (its files are in {run.path})")
    measured = bench_page.read(run, kind)
    shutil.rmtree(run.path)
    with contextlib.suppress(OSError):
        run.path.parent.rmdir()
    return measured


def planned(wanted: Wanted, kind: Kind) -> Config:
    """The run whose steps are timed: a first stretch to warm up, then WINDOWS of them."""
    config = wanted.config
    window = wanted.steps // WINDOWS
    settings = plan.ScalingConfig(
        (config.ranks,),
        windows=WINDOWS,
        window_steps=window,
        profile_steps=PROFILE_STEPS if config.ranks > 1 else 1,
        exclusive=False,
    )
    nodes = config.resources.nodes
    on = Shape(nodes, config.ranks // nodes)
    name = f"{kind}-{time.strftime('%Y%m%dT%H%M%S')}"
    timed = plan.timed(config, settings, on, config.train.batch_size, name, kind)
    study = config.run.study if config.run.study != "default" else "bench"
    return replace(
        timed,
        train=replace(timed.train, ceilings=kind == wanted.kinds[0]),
        run=replace(timed.run, study=study),
    )


def _run_here(run: RunDir, config: Config) -> dict[str, Any]:
    process = local.start(run, config)
    try:
        return local.finish(process, run)
    except KeyboardInterrupt:
        local.kill(process, run)
        shutil.rmtree(run.path, ignore_errors=True)
        raise


def _run_as_job(run: RunDir, config: Config) -> dict[str, Any]:
    from hpctrain.launch.status import Watch
    from hpctrain.scheduler import client, submit

    def say(text: str) -> None:
        print(f"hpctrain: {text}", file=sys.stderr, flush=True)

    job_id = submit.submit(run, config)
    say(f"job {job_id}: {run_id(config)}")
    watched = Watch(run, say)
    try:
        while not watched.ended():
            time.sleep(0.5)
    except KeyboardInterrupt:
        client.cancel([job_id], submit.slurm_conf(config))
        raise
    return run.read_state()
