"""Measures this machine, and an experiment's training step on it, by a short run with a few timed steps.

Takes settings; runs here or as a Slurm job, once with the experiment's own data and once with noise. Side effects:
processes or jobs, and run directories in the study "bench", removed once their figures are read.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hpctrain.config import compose
from hpctrain.config.settings import Config
from hpctrain.data.derive import load
from hpctrain.data.identify import run_id
from hpctrain.errors import RunFailed, UserError
from hpctrain.launch import local
from hpctrain.launch.prepare import prepare
from hpctrain.launch.standing import right_to_start
from hpctrain.launch.start import hold
from hpctrain.launch.status import Watch
from hpctrain.scaling import bench_page, plan
from hpctrain.scaling.network import Shape
from hpctrain.scaling.plan import Kind
from hpctrain.scheduler import client, sbatch, submit
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Phase, Reason, RunState

WINDOWS = 5
PROFILE_STEPS = 5
# Its data is bundled and it takes a moment: it runs if only the machine is asked for.
SMALLEST = "experiment=lenet_digits"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """What to measure, checked."""

    config: Config
    kinds: tuple[Kind, ...]
    steps: int
    machine_only: bool


def wanted(words: Sequence[str], steps: int, synthetic: bool) -> Wanted:
    """Returns what the settings ask for: only the machine if they name no experiment. Raises UserError."""
    settings = list(compose.spelled_out(words))
    about = ("resources.", "comm.", "cluster", "run.")
    machine_only = all(word.startswith(about) for word in settings)
    config = load([SMALLEST, *settings] if machine_only else settings)
    if config.cluster.kind == "slurm":
        sbatch.check(config)
        submit.check_here(config)
    kinds: tuple[Kind, ...] = ("own", "synthetic") if config.data.shape else ("own",)
    if machine_only:
        kinds = ("own",)
    elif synthetic:
        if not config.data.shape:
            raise UserError(
                "--synthetic", "", f"noise replaces images; data={config.data.name} are not images"
            )
        kinds = ("synthetic",)
    return Wanted(config, kinds, 5 if machine_only else steps, machine_only)


def bench(wanted: Wanted, say: Say) -> bench_page.Document:
    """Returns the document of all that was measured. Raises RunFailed with the run's own reason."""
    measured = [measure(wanted, kind, say) for kind in wanted.kinds]
    document = bench_page.document(wanted.config, measured)
    if wanted.machine_only:
        document["steps"] = []
    return document


def measure(wanted: Wanted, kind: Kind, say: Say) -> bench_page.Measured:
    """Returns the figures of one short run, here or as a job. Raises RunFailed with the run's own reason."""
    config = planned(wanted, kind)
    run = prepare(config)
    say(f"measuring with {bench_page.DATA[kind]} ...")
    state = _run_here(run, config) if config.cluster.kind == "local" else _run_as_job(run, config, say)
    if state.phase != Phase.DONE:
        reason, detail = state.reason or Reason.INTERRUPTED, state.detail or "it did not end"
        raise RunFailed(reason, f"{detail} (its files are in {run.path})")
    measured = bench_page.read(run, kind)
    shutil.rmtree(run.path)
    with contextlib.suppress(OSError):
        run.path.parent.rmdir()
    return measured


def planned(wanted: Wanted, kind: Kind) -> Config:
    """Returns the run whose steps are timed: one window to warm up, then WINDOWS timed ones."""
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


def _run_here(run: RunDir, config: Config) -> RunState:
    try:
        with hold(run):
            ranks = local.start(run, config)
            try:
                return ranks.finish()
            except KeyboardInterrupt:
                ranks.kill()
                raise
    except KeyboardInterrupt:
        shutil.rmtree(run.path, ignore_errors=True)
        raise


def _run_as_job(run: RunDir, config: Config, say: Say) -> RunState:
    with right_to_start(run) as standing:
        job_id = standing.submit(config)
    say(f"job {job_id}: {run_id(config)}")
    watched = Watch(run, say)
    try:
        while not watched.ended():
            time.sleep(0.5)
    except KeyboardInterrupt:
        client.cancel([job_id], submit.slurm_conf(config))
        raise
    return run.read_state()
