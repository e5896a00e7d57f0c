"""Calibrations on disk: finds the profiled runs of an experiment on a cluster, and predicts with them.

Takes configurations; reads runs/calibration-<cluster>/. Times are seconds. No torch, no Slurm; nothing is written.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from hpctrain.config.settings import Config
from hpctrain.data.identify import run_id
from hpctrain.errors import Damaged, UserError
from hpctrain.launch import estimate
from hpctrain.scaling import plan, predict
from hpctrain.scaling.network import Exchange
from hpctrain.scaling.plan import ScalingConfig
from hpctrain.scaling.predict import Calibration, Predicted
from hpctrain.storage.profile import Profile
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.search import locate, runs

LINKS = frozenset({"1x2", "2x1"})  # shapes that measure a link: two ranks, on one node and on two
CYCLE_MS = 0.5  # the default of training/comm.py
START_S = 20.0  # from a job's start to its first step: imports, rendezvous, the first batches


def find(config: Config, settings: ScalingConfig) -> Calibration | None:
    """Returns the calibration of this experiment on this cluster, with as many of its `scaling.repeats` as there are.

    Returns None if it does not exist yet. Raises Damaged.
    """
    repeats = (_measured(config, settings, repeat) for repeat in range(1, settings.repeats + 1))
    found = [one for one in repeats if one is not None]
    return replace(found[0], repeats=tuple(found[1:])) if found else None


def _measured(config: Config, settings: ScalingConfig, repeat: int) -> Calibration | None:
    """Returns one repeat of the calibration; None without the profile of one rank, or without one of a link.

    Links belong to the cluster, so another experiment's profile of two ranks will do if this one has none.
    """
    wanted = plan.calibration(config, settings, repeat)
    profiles: dict[str, Profile] = {}
    links_of: float | None = None
    cycle_s, bucket_mb, hierarchical = 0.0, config.comm.bucket_mb, False
    for name, one in wanted.items():
        run = locate(one.run.root, one.run.study, run_id(one))
        profile = run.read_profile()
        if profile is None and name in LINKS and (other := _any(one)):
            run, profile = other, other.read_profile()
        if profile is not None:
            profiles[name] = profile
            if name in LINKS:
                links_of, cycle_s, bucket_mb, hierarchical = _settings(run)
    if "1x1" not in profiles or not profiles.keys() & LINKS:
        return None
    algorithm = _algorithm(settings, profiles["1x1"]["device"], hierarchical)
    return Calibration(
        profiles, config.cluster.nodes_per_host, links_of, cycle_s, bucket_mb * 2**20, algorithm
    )


def _algorithm(settings: ScalingConfig, device: str, hierarchical: bool) -> str:
    return "hierarchical" if hierarchical else plan.algorithm(settings, device)


def needed(config: Config, settings: ScalingConfig, words: str) -> Calibration:
    """Returns the calibration as `find` does. Raises UserError, which says what to run, if there is none."""
    calibration = find(config, settings)
    if calibration is None:
        raise UserError(
            "cluster", config.cluster.name,
            f"is not calibrated for {config.model.name} at this batch and precision: run "
            f"hpctrain scale --calibrate {words}",
        )  # fmt: skip
    return calibration


def _any(config: Config) -> RunDir | None:
    """Returns another experiment's profiled run of this shape, whose sums used the same links; None without one."""
    name, candidates = config.run.name, runs(Path(config.run.root), config.run.study)
    return next((r for r in candidates if r.run_id.rpartition("-")[0] == name and _is_profiled(r)), None)


def _is_profiled(run: RunDir) -> bool:
    with contextlib.suppress(Damaged):
        return run.read_profile() is not None
    return False


def _settings(run: RunDir) -> tuple[float | None, float, float, bool]:
    """Returns the links' nominal Gbit/s, Horovod's cycle in seconds, bucket MB, and whether sums were hierarchical."""
    cluster, comm = (run.read_config()[part] for part in ("cluster", "comm"))
    rate = cluster.get("link_gbit_per_s")
    return (
        float(rate) if rate else None, _cycle_s(comm["cycle_time_ms"]), float(comm["bucket_mb"]),
        bool(comm["hierarchical"]),
    )  # fmt: skip


def _cycle_s(cycle_time_ms: float | None) -> float:
    return 1e-3 * (cycle_time_ms if cycle_time_ms is not None else CYCLE_MS)


def exchange_of(config: Config) -> Exchange:
    """Returns the model's exchange with the run's own comm settings."""
    comm = config.comm
    return Exchange(
        bucket_bytes=comm.bucket_mb * 2**20,
        cycle_s=_cycle_s(comm.cycle_time_ms),
        fusion_bytes=comm.fusion_bytes,
        compression=0.5 if comm.compression == "fp16" else 1.0,
    )


def curve(config: Config, settings: ScalingConfig, calibration: Calibration) -> list[Predicted]:
    """Returns the model's prediction for every GPU count of the settings. Raises UserError as a study would."""
    points = [(plan.shape(config, gpus), plan.rank_batch(config, settings, gpus)) for gpus in settings.gpus]
    whole = settings.batch or config.train.batch_size * config.train.accumulate
    single = whole // config.train.accumulate if settings.mode == "strong" else config.train.batch_size
    return predict.predict(
        calibration,
        points,
        exchange_of(config),
        _algorithm(settings, calibration.one["device"], config.comm.hierarchical),
        single,
        config.train.accumulate,
        config.cluster.link_gbit_per_s,
    )


def expected(config: Config, settings: ScalingConfig) -> dict[str, float]:
    """Returns the predicted node-seconds of one run, by GPU count; {} if the cluster is not calibrated."""
    calibration = find(config, settings)
    if calibration is None:
        return {}
    predicted = curve(config, settings, calibration)
    return {str(p.gpus): p.nodes * (START_S + settings.steps * p.step.total_s) for p in predicted}


def foresee(config: Config) -> estimate.Expected | None:
    """Returns the seconds of all training steps, and the efficiency against one GPU at the same batch.

    Returns None if the cluster is not calibrated for the run.
    """
    if config.cluster.kind != "slurm":
        return None
    settings = ScalingConfig(gpus=(config.ranks,), mode="weak", repeats=1)  # an interval would import scipy
    calibration = find(config, settings)
    if calibration is None:
        return None
    try:
        (predicted,) = curve(config, settings, calibration)
    except UserError:  # the ranks do not fill whole nodes of the preset's size
        return None
    steps, _ = estimate.length(config)
    return {"expected_s": steps * predicted.step.total_s, "expected_efficiency": predicted.efficiency}
