"""The settings of a sweep: `sweep.*` as a frozen dataclass, checked against the space and the run.

Pure: takes plain values, returns a `SweepConfig` or raises UserError. No Hydra, no Optuna, no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge

from hpctrain.config.settings import Config, Positive, PositiveFloat
from hpctrain.config.swept import Choice, Interval, Swept
from hpctrain.config.tasks import scores_of
from hpctrain.config.validate import validate
from hpctrain.errors import UserError, choose
from hpctrain.sweep.asha import rung_epochs


@dataclass(frozen=True)
class SweepConfig:
    """The `sweep` group; conf/sweep_base.yaml explains each setting."""

    sampler: Literal["grid", "random", "tpe", "cmaes", "gp", "qmc", "nsga2"] = "grid"
    trials: Positive | None = None
    seed: Annotated[int, Ge(0)] = 0
    metric: str | None = None
    mode: Literal["min", "max"] | None = None
    pruner: Literal["none", "asha"] = "none"
    reduction: Annotated[int, Ge(2)] = 3
    min_epochs: Positive = 1
    jobs: Positive | None = None
    runs_per_job: Positive | None = None
    runs_at_once: Positive = 1
    runs_per_gpu: Positive = 1
    max_runs: Positive = 10_000
    max_node_hours: PositiveFloat | None = None
    max_submitted: Positive | None = None

    @property
    def adaptive(self) -> bool:
        """Whether the next suggestion depends on the results so far."""
        return self.sampler not in ("grid", "random")

    @property
    def searches(self) -> bool:
        """Whether the work depends on the results so far: by the sampler or by the pruner."""
        return self.adaptive or self.pruner != "none"


# All calls of `sweep` for one study must agree on these.
OF_THE_STUDY = ("metric", "mode", "pruner", "reduction", "min_epochs")


def sweep_config(values: Mapping[str, Any]) -> SweepConfig:
    """Returns the checked `sweep` node of a composed configuration. Raises UserError."""
    settings: SweepConfig = validate(SweepConfig, values, "sweep.")
    return settings


def check(settings: SweepConfig, space: Sequence[Swept], config: Config) -> None:
    """Raises UserError if the settings contradict the space or `config`, which is one run of the sweep."""
    if not space:
        raise UserError(
            "sweep", "", "nothing is swept: give a key several values, such as optimizer.lr=0.01,0.1"
        )
    for swept in space:
        group = swept.key.lstrip("+").partition(".")[0]
        if group in ("sweep", "scaling", "run", "cluster", "resources", "hydra"):
            raise UserError(swept.key, "", f"cannot be swept: one study has one {group}")
    intervals = [s for s in space if isinstance(s, Interval)]
    if settings.sampler == "grid" and intervals:
        raise UserError(
            intervals[0].key,
            "interval(...)",
            "cannot be put on a grid: give values, or sweep=random, sweep=tpe",
        )
    if settings.sampler == "grid" and settings.trials is not None:
        raise UserError(
            "sweep.trials", settings.trials, "is not used by sampler grid, which takes all combinations"
        )
    if settings.sampler != "grid" and settings.trials is None:
        raise UserError("sweep.trials", "null", f"sampler {settings.sampler} needs the number of runs")
    if settings.sampler == "cmaes" and not intervals:
        raise UserError("sweep.sampler", "cmaes", "needs an interval, such as optimizer.lr=interval(0.001,1)")
    if (runs := count(settings, space)) > settings.max_runs:
        raise UserError(
            "sweep.max_runs",
            settings.max_runs,
            f"the sweep has {runs:,} runs; give a higher limit or fewer values",
        )
    if settings.runs_at_once > 1 and config.ranks > 1:
        raise UserError(
            "sweep.runs_at_once", settings.runs_at_once, f"needs runs of one rank; these have {config.ranks}"
        )
    if settings.runs_per_gpu > 1 and settings.runs_at_once == 1:
        raise UserError("sweep.runs_per_gpu", settings.runs_per_gpu, "needs sweep.runs_at_once > 1")
    _check_metric(settings, config)
    if settings.pruner == "asha":
        _check_asha(settings, space, config)


def _check_metric(settings: SweepConfig, config: Config) -> None:
    known = scores_of(config.task.name)
    if settings.metric is None:
        if settings.searches:
            what = (
                f"sweep.pruner={settings.pruner}"
                if settings.pruner != "none"
                else f"sampler {settings.sampler}"
            )
            raise UserError("sweep.metric", "null", f"{what} needs a metric: {', '.join(known)}")
        if settings.mode is not None:
            raise UserError("sweep.mode", settings.mode, "needs sweep.metric")
    elif known and settings.metric not in known:
        raise choose("sweep.metric", settings.metric, known)


def _check_asha(settings: SweepConfig, space: Sequence[Swept], config: Config) -> None:
    epochs = config.train.epochs
    if config.train.steps is not None or not epochs:
        raise UserError("sweep.pruner", "asha", "counts in epochs: give train.epochs, not train.steps")
    if any(s.key in ("train.epochs", "train.steps") for s in space):
        raise UserError("sweep.pruner", "asha", "chooses the length of each run: do not sweep train.epochs")
    if len(rung_epochs(settings.min_epochs, settings.reduction, epochs)) < 2:
        raise UserError(
            "sweep.min_epochs", settings.min_epochs, f"leaves no rung below train.epochs={epochs}"
        )


def objective(settings: SweepConfig, task: str) -> tuple[str, bool]:
    """Returns the metric's name, and whether higher is better."""
    known = scores_of(task)
    metric = settings.metric or next(iter(known))
    if settings.mode:
        return metric, settings.mode == "max"
    return metric, metric in known and known[metric].higher_is_better


def count(settings: SweepConfig, space: Sequence[Swept]) -> int:
    """Returns the number of runs of the sweep, duplicates included."""
    if settings.trials is not None:
        return settings.trials
    return math.prod(len(s.values) for s in space if isinstance(s, Choice))
