"""Calibrations on disk: find the profiled runs of an experiment and a cluster, and predict with them.

Takes configurations; reads runs/calibration-<cluster>/. Seconds. No torch, no Slurm, nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpctrain.config.settings import Config
from hpctrain.data.identify import run_id
from hpctrain.errors import UserError
from hpctrain.scaling import plan, predict
from hpctrain.scaling.network import Exchange
from hpctrain.scaling.plan import Planned, ScalingConfig
from hpctrain.scaling.predict import Calibration, Predicted
from hpctrain.storage.run_dir import RunDir, locate, runs

CYCLE_MS = 0.5  # training/comm.py: where nothing else is set
START_S = 20.0  # from a job's start to its first step: imports, joining, the first batches


def find(config: Config, settings: ScalingConfig) -> Calibration | None:
    """The calibration of this experiment on this cluster; None where there is none (yet).

    The links are the cluster's: where this experiment has no profile of two ranks, another one's serves.
    """
    wanted = plan.calibration(config, settings)
    profiles: dict[str, Any] = {}
    links_of: float | None = None
    cycle_s, bucket_mb = 0.0, config.comm.bucket_mb
    for name, one in wanted.items():
        run = locate(one.run.root, one.run.study, run_id(one))
        if run.read_profile() is None and name in ("1x2", "2x1"):
            run = _any(one, name) or run
        if profile := run.read_profile():
            profiles[name] = profile
            if name in ("1x2", "2x1"):
                links_of, cycle_s, bucket_mb = _settings(run)
    if "1x1" not in profiles or not profiles.keys() & {"1x2", "2x1"}:
        return None
    cluster = config.cluster
    per_node = config.resources.gpus_per_node or cluster.gpus_per_node or 1
    return Calibration(profiles, per_node, cluster.nodes_per_host, links_of, cycle_s, bucket_mb * 2**20)


def needed(config: Config, settings: ScalingConfig, words: str) -> Calibration:
    """The same, or a UserError that says what to run."""
    found = find(config, settings)
    if found is None:
        raise UserError(
            "cluster", config.cluster.name,
            f"is not calibrated for {config.model.name} at this batch and precision: run "
            f"hpctrain scale --calibrate {words}",
        )  # fmt: skip
    return found


def _any(config: Config, name: str) -> RunDir | None:
    """A profiled run of this shape by any experiment: its sums are of the same links."""
    found = runs(Path(config.run.root), config.run.study)
    return next((r for r in found if r.run_id.startswith(f"{name}-") and r.read_profile()), None)


def _settings(run: RunDir) -> tuple[float | None, float, float]:
    """The nominal rate of the links, Horovod's cycle, and the buckets, while they were measured."""
    values = run.read_config()
    rate, cycle_ms = values["cluster"].get("link_gbit_per_s"), values["comm"]["cycle_time_ms"]
    return float(rate) if rate else None, _cycle_s(cycle_ms), float(values["comm"]["bucket_mb"])


def _cycle_s(cycle_time_ms: float | None) -> float:
    return 1e-3 * (cycle_time_ms if cycle_time_ms is not None else CYCLE_MS)


def exchange_of(config: Config) -> Exchange:
    """The model's exchange, with the settings that the run would have."""
    comm = config.comm
    return Exchange(
        bucket_bytes=comm.bucket_mb * 2**20,
        cycle_s=_cycle_s(comm.cycle_time_ms),
        fusion_bytes=comm.fusion_bytes,
        compression=0.5 if comm.compression == "fp16" else 1.0,
    )


def curve(config: Config, settings: ScalingConfig, calibration: Calibration) -> list[Predicted]:
    """The model's answer for every count of the settings. Raises UserError as a study would."""
    points = [(plan.shape(config, gpus), plan.rank_batch(config, settings, gpus)) for gpus in settings.gpus]
    whole = settings.batch or config.train.batch_size * config.train.accumulate
    single = whole // config.train.accumulate if settings.mode == "strong" else config.train.batch_size
    device = str(calibration.one["device"])
    name = "hierarchical" if config.comm.hierarchical else plan.algorithm(settings, device)
    return predict.predict(
        calibration,
        points,
        exchange_of(config),
        name,
        single,
        config.train.accumulate,
        config.cluster.link_gbit_per_s,
    )


def expected(config: Config, settings: ScalingConfig, planned: Sequence[Planned]) -> dict[str, float]:
    """Node-seconds that one run of each count will take, where the cluster is calibrated; {} where it is not."""
    calibration = find(config, settings)
    if calibration is None:
        return {}
    found = curve(config, settings, calibration)
    return {str(p.gpus): p.nodes * (START_S + settings.steps * p.step.total_s) for p in found}
