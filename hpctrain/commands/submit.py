"""`hpctrain submit`, with what a calibration of the cluster says of the run beside it.

Takes submit's command line. The launcher knows nothing of studies: what is expected is handed to it.
"""

from __future__ import annotations

from hpctrain.commands import runs
from hpctrain.config.settings import Config
from hpctrain.errors import UserError
from hpctrain.launch import estimate


def submit(argv: list[str]) -> int:
    """The command."""
    return runs.submit(argv, expected)


def expected(config: Config) -> dict[str, float]:
    """Seconds of all training steps, and the efficiency against one GPU at the same batch; {} where not known."""
    from hpctrain.scaling import calibration as calibrations
    from hpctrain.scaling.plan import ScalingConfig

    if config.cluster.kind != "slurm":
        return {}
    settings = ScalingConfig(gpus=(config.ranks,), mode="weak")
    calibration = calibrations.find(config, settings)
    if calibration is None:
        return {}
    try:
        (found,) = calibrations.curve(config, settings, calibration)
    except UserError:  # ranks that are not whole nodes of the preset's size
        return {}
    steps, _ = estimate.length(config)
    return {"expected_s": steps * found.step.total_s, "expected_efficiency": found.efficiency}
