"""Why a run should stop early: signals, the time limit, a cancel request. Handlers set a flag only.

Takes signals and the clock, gives the name of a reason. Ranks agree at a step boundary (training/loop.py).
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

# In order of weight: when ranks see different ones, the first counts.
STOP_REASONS = ("INTERRUPTED", "TIME_LIMIT", "PREEMPTED")

_SIGNALS = {
    signal.SIGINT: "INTERRUPTED",
    signal.SIGTERM: "PREEMPTED",  # Slurm's preemption, scancel and shutdown all begin with it
    signal.SIGUSR1: "TIME_LIMIT",
    signal.SIGUSR2: "TIME_LIMIT",  # what submitit's jobs are sent ahead of the limit
}


class StopFlag:
    """Set from signal handlers and the clock; read once a step."""

    def __init__(self, deadline_s: float | None = None) -> None:
        """`deadline_s`: when (seconds since the epoch) to stop because of the time limit."""
        self.reason: str | None = None
        self._deadline_s = deadline_s

    def install(self) -> None:
        """Take over the signals of this process, submitit's handlers included."""
        for number in _SIGNALS:
            signal.signal(number, self._handle)

    def poll(self) -> str | None:
        """The reason to stop, or None."""
        if self.reason is None and self._deadline_s is not None and time.time() >= self._deadline_s:
            self.reason = "TIME_LIMIT"
        return self.reason

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.reason = self.reason or _SIGNALS[signal.Signals(number)]


def slurm_deadline_s(margin_s: float) -> float | None:
    """`margin_s` before the end of this Slurm job, where Slurm says when that is."""
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    return float(end) - margin_s if end.isdigit() else None
