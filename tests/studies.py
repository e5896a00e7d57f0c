"""Made-up studies: the files that a sweep leaves, with scores that are known."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpctrain.config.swept import as_json
from hpctrain.sweep.settings import SweepConfig
from hpctrain.sweep.study_dir import Ended, StudyDir, Trial, Work, stored

DONE = ("done", "DONE")


def curve(last: float, epochs: int, first: float = 0.1) -> list[float]:
    """Returns a score after each epoch, from near `first` to `last`."""
    return [last + (first - last) * 0.5 ** (4 * (e + 1) / epochs) * (e + 1 < epochs) for e in range(epochs)]


class Made:
    """A study of which each run is made by hand."""

    def __init__(self, root: Path, name: str = "s", **sweep: Any) -> None:
        self.study = StudyDir(root / name)
        self.study.create()
        self.sweep = {"metric": "accuracy"} | sweep
        self.trials: list[Trial] = []

    def run(
        self,
        params: Mapping[str, Any],
        scores: Sequence[float] | None,
        end: tuple[str, str | None] = DONE,
        metric: str = "accuracy",
        config: Mapping[str, Any] | None = None,
        detail: str | None = None,
    ) -> str:
        """Adds a run with a score after each epoch; None: nothing has begun it. Returns its id."""
        run_id = f"r{len(self.trials):04d}"
        overrides = tuple(f"{key}={value}" for key, value in params.items())
        settings = dict(config or {}) | dict(params)
        self.trials.append(Trial(run_id, overrides, dict(params), settings))
        if scores is not None:
            run = self.study.run(run_id)
            run.create(settings)
            lines = [
                {"kind": "validation", "step": 10 * n, "epoch": float(n), "scores": {metric: score, "loss": 1 / n}
                 if metric != "loss" else {"loss": score}}
                for n, score in enumerate(scores, 1)
            ]  # fmt: skip
            run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
            phase, reason = end
            kept = "interrupted" if phase == "paused" else phase
            summary = {"elapsed_s": 36.0 * max(1, len(scores)), "flops_total": 1e12}
            run.state.beat(phase=kept, reason=reason, detail=detail, ranks=1, summary=summary)
            if phase == "paused":
                ended: Ended = {"value": scores[-1], "epochs": float(len(scores)), "phase": phase, "reason": reason,
                                "detail": None}  # fmt: skip
                self.study.write_ended(Work(run_id), ended)
        return run_id

    def write(
        self, space: Sequence[Any] = (), task: str = "classification", fixed: Sequence[str] = ()
    ) -> StudyDir:
        """Writes the call of `sweep` that asked for the runs added since the last one; returns the study."""
        known = {t["run_id"] for part in self.study.parts() for t in part["trials"]}
        trials = [stored(t) for t in self.trials if t.run_id not in known]
        self.study.add_part(
            {"sweep": asdict(SweepConfig(**self.sweep)), "task": task, "space": as_json(space),
             "fixed": list(fixed), "trials": trials}
        )  # fmt: skip
        return self.study
