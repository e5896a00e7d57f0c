"""What a run reports: records to its loggers, the heartbeat in state.json, lines for people.

Takes figures from the loop on rank 0; the reporters of other ranks do nothing. Side effects: files of the run
directory, and the rank's log. Units are in the names.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from hpctrain.config.settings import TrainConfig
from hpctrain.errors import RunFailed
from hpctrain.storage.full_disk import Tolerance, left_out, patiently
from hpctrain.storage.records import Record
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Reason
from hpctrain.training.json_lines import JsonLines
from hpctrain.training.logger import Logger, Start
from hpctrain.training.tensorboard import TensorBoard

HEARTBEAT_S = 1.0
UNTOLD_S = 120.0  # records and heartbeats may fail for this long: the run trains just as well without them
PATIENT_STARTS = 3

# To add a logger: write its class in a file of its own, and add a line here.
LOGGERS: dict[str, Callable[[RunDir, Start], Logger]] = {"json_lines": JsonLines, "tensorboard": TensorBoard}


def chosen_loggers(settings: TrainConfig) -> list[str]:
    """Returns the names of the loggers of a run: a setting `train.<name>`, if there is one, turns one on or off."""
    return [name for name in LOGGERS if getattr(settings, name, True)]


class Reporter:
    """Reports everything of a run. Close it at the end."""

    def __init__(
        self, run: RunDir, attempt: int, enabled: bool, loggers: Sequence[str] = ("json_lines",)
    ) -> None:
        """`run` is held by rank 0, which is `enabled`. `loggers`: names of LOGGERS; `begin` makes them."""
        self._run, self._attempt, self._enabled = run, attempt, enabled
        self._beat_s = 0.0
        self._has_saved = False  # whether the attempt's folder notes a saved step
        # Heartbeats are written in a thread of their own: shared storage may be slow.
        self._writer = ThreadPoolExecutor(1, "heartbeat")
        self._beating: Future[Any] | None = None
        self._beats = Tolerance("heartbeat", UNTOLD_S)
        self._names, self._loggers = loggers, list[tuple[Logger, Tolerance]]()

    def begin(self, step: int, validated_at: int) -> None:
        """Make the loggers of an attempt that begins at `step`, with the last validation at `validated_at`."""
        if self._enabled:
            start = Start(self._attempt, step, validated_at)
            for name in self._names:
                logger = patiently(functools.partial(LOGGERS[name], self._run, start))
                self._loggers.append((logger, Tolerance(f"record ({name})", UNTOLD_S)))

    def check_progress(self, step: int) -> None:
        """Note the step at which this attempt begins. Raises NO_PROGRESS if the three before it began here as well."""
        if not self._enabled:
            return
        starts = [*(self._run.read_state().starts or ()), step]
        if len(starts) > PATIENT_STARTS and set(starts[-PATIENT_STARTS - 1 :]) == {step}:
            raise RunFailed(
                Reason.NO_PROGRESS, f"{PATIENT_STARTS} attempts in a row began at step {step} and saved none"
            )
        patiently(lambda: self._run.state.started_at(starts))

    def record(self, record: Record) -> None:
        """Pass a record on to every logger. Raises RunFailed if one could write none for UNTOLD_S seconds."""
        for logger, patience in self._loggers:
            try:
                logger.record(record)
            except OSError as error:
                patience.failed(error)
            else:
                patience.worked()

    def beat(self, now: bool = False, **values: Any) -> None:
        """Write a heartbeat and `values` into state.json, at most once in HEARTBEAT_S and never two at a time.

        `now`: it is on disk when this returns. The next heartbeat has the values of a failed one too (run_state.py).
        Raises RunFailed if none could be written for UNTOLD_S seconds, and OSError if `now` and it cannot be written.
        """
        if not self._enabled or not (now or time.monotonic() - self._beat_s >= HEARTBEAT_S):
            return
        if self._beating is not None:
            if not (now or self._beating.done()):
                return
            self._see_written(self._beating)
        self._beat_s = time.monotonic()
        if not self._has_saved and (step := values.get("checkpoint")):
            with contextlib.suppress(OSError):  # the next heartbeat tries again
                self._run.note_saved(self._attempt, step)
                self._has_saved = True
        if now:
            self._beating = None
            patiently(lambda: self._run.state.beat(**values))
        else:
            self._beating = self._writer.submit(self._run.state.beat, **values)

    def _see_written(self, beating: Future[Any]) -> None:
        """Wait for a heartbeat, and note whether it was written."""
        try:
            beating.result()
        except OSError as error:
            self._beats.failed(error)
        else:
            self._beats.worked()

    def say(self, text: str) -> None:
        """Print a line for people into the log of rank 0."""
        if self._enabled:
            print(text, flush=True)

    def close(self) -> None:
        """Wait for the last heartbeat, and close the loggers."""
        self._writer.shutdown()
        for logger, _ in self._loggers:
            with left_out("the last records"):
                logger.close()


# Figures with units; every other figure is a score of the task.
_FORMATS = {
    "samples_per_s": "{:,.0f} samples/s",
    "gflop_per_s": "{:,.1f} GFLOP/s",
    "mfu": "{:.1%} of peak",
    "roofline_share": "{:.1%} of the roofline",
}
_UNSAID = ("flops",)


def shown(figures: Mapping[str, float | None]) -> str:
    """Returns named figures as one line for people: `loss 0.2984, accuracy 0.8904, 11,000 samples/s`."""
    return ", ".join(
        _FORMATS.get(key, key + " {:.4g}").format(value)
        for key, value in figures.items()
        if value is not None and key not in _UNSAID
    )
