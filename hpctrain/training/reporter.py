"""What a run tells the outside: metrics.jsonl, state.json's heartbeat, TensorBoard, lines for people.

Takes figures from the loop on rank 0 (other ranks' reporters do nothing); writes files of the run
directory and prints to the rank's log. Units are in the names.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from hpctrain.errors import RunFailed
from hpctrain.storage.run_dir import RunDir, read_json_lines, replace_text

HEARTBEAT_S = 1.0
PATIENT_STARTS = 3


class Reporter:
    def __init__(self, run: RunDir, attempt: int, enabled: bool, tensorboard: bool = False) -> None:
        self._run, self._attempt, self._enabled = run, attempt, enabled
        self._beat_s = 0.0
        # Beats are written beside the steps: shared storage may take its time.
        self._writer = ThreadPoolExecutor(1, "heartbeat")
        self._beating: Future[Any] | None = None
        self._board = _tensorboard(run) if tensorboard and enabled else None
        self._file: Any = None

    def resume_at(self, step: int, validated_at: int) -> None:
        """Keep the records up to `step`; those beyond belong to work that is done again.

        So do validations after `validated_at`, and records of windows that a stop cut short.
        """
        if not self._enabled:
            return
        last = {"validation": validated_at}
        if self._run.metrics_file.exists():
            found = read_json_lines(self._run.metrics_file)
            kept = [
                r for r in found if r.get("step", 0) <= last.get(r.get("kind", ""), step) and "cut" not in r
            ]
            replace_text(self._run.metrics_file, "".join(json.dumps(r) + "\n" for r in kept))
        self._file = self._run.metrics_file.open("a", buffering=1)

    def check_progress(self, step: int) -> None:
        """Note where this start begins. Raises NO_PROGRESS where three before it began here as well."""
        if not self._enabled:
            return
        starts = [*self._run.read_state().get("starts", []), step]
        if len(starts) > PATIENT_STARTS and set(starts[-PATIENT_STARTS - 1 :]) == {step}:
            raise RunFailed(
                "NO_PROGRESS", f"{PATIENT_STARTS} attempts in a row began at step {step} and saved none"
            )
        self._run.write_state(starts=starts)

    def record(self, kind: str, **values: Any) -> None:
        """One line of metrics.jsonl."""
        if not self._enabled:
            return
        line = {"kind": kind, "attempt": self._attempt, "time": round(time.time(), 3), **values}
        self._file.write(json.dumps(line) + "\n")
        if self._board is not None:
            for key, value in values.items():
                if isinstance(value, float):
                    self._board.add_scalar(f"{kind}/{key}", value, values.get("step", 0))

    def beat(self, now: bool = False, **values: Any) -> None:
        """Say that the run is alive; at most once in HEARTBEAT_S, and never before the last one is written.

        `now`: it is on disk when this returns. Raises what the writing of the last one raised.
        """
        if not self._enabled or not (now or time.monotonic() - self._beat_s >= HEARTBEAT_S):
            return
        if self._beating is not None:
            if not (now or self._beating.done()):
                return
            self._beating.result()
        self._beat_s = time.monotonic()
        self._beating = self._writer.submit(self._run.write_state, **values)
        if now:
            self._beating.result()

    def say(self, text: str) -> None:
        """A line for people, in rank 0's log."""
        if self._enabled:
            print(text, flush=True)

    def close(self) -> None:
        self._writer.shutdown()
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


# Figures with units of their own; every other one is a score of the task.
_FORMATS = {
    "samples_per_s": "{:,.0f} samples/s",
    "gflop_per_s": "{:,.1f} GFLOP/s",
    "mfu": "{:.1%} of peak",
    "roofline_share": "{:.1%} of the roofline",
}
_UNSAID = ("flops",)


def shown(figures: Mapping[str, float | None]) -> str:
    """Named figures as one line for people: `loss 0.2984, accuracy 0.8904, 11,000 samples/s`."""
    return ", ".join(
        _FORMATS.get(key, key + " {:.4g}").format(value)
        for key, value in figures.items()
        if value is not None and key not in _UNSAID
    )


def _tensorboard(run: RunDir) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise RunFailed(
            "IMPORT_ERROR", "train.tensorboard=true needs the extra: pip install 'hpctrain[tensorboard]'"
        ) from None
    return SummaryWriter(str(run.tensorboard))
