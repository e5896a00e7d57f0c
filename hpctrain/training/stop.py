"""Why a run should stop early: signals, the time limit, a cancel request. Handlers set a flag only.

Takes signals and the clock; returns the name of a reason. Ranks agree at a step boundary (training/loop.py).
"""

from __future__ import annotations

import signal
import time
from types import FrameType

# In order of weight: if ranks see different ones, the first counts.
STOP_REASONS = ("INTERRUPTED", "TIME_LIMIT", "PREEMPTED", "TERMINATED")

_SIGNALS = {
    signal.SIGINT: "INTERRUPTED",
    # Sent ahead of the time limit (sbatch --signal) and, at some sites, before a preemption.
    signal.SIGUSR1: "PREEMPTED",
    signal.SIGUSR2: "PREEMPTED",
    # A preemption, scancel and the shutdown of a node all begin with it: only Slurm knows which one it was.
    signal.SIGTERM: "TERMINATED",
}


class StopFlag:
    """Set from signal handlers and the clock; read once a step."""

    def __init__(self, end_s: float | None = None, margin_s: float = 0.0) -> None:
        """`end_s`: when (seconds since the epoch) the job is killed; it stops `margin_s` before that."""
        self.reason: str | None = None
        self._deadline_s = None if end_s is None else end_s - margin_s

    def install(self) -> None:
        """Take over the signals of this process, submitit's handlers included."""
        for number in _SIGNALS:
            signal.signal(number, self._handle)

    def poll(self) -> str | None:
        """Returns the reason to stop, or None."""
        if self._deadline_s is not None and self.reason in (None, "PREEMPTED"):
            # The warning and the clock come at the same time; a minute's grace for Slurm's own rounding.
            early_s = 0.0 if self.reason is None else 60.0
            if time.time() >= self._deadline_s - early_s:
                self.reason = "TIME_LIMIT"
        return self.reason

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.reason = self.reason or _SIGNALS[signal.Signals(number)]
