"""Why a run should stop early: signals, the time limit, a cancel request. Handlers set a flag only.

Takes signals and the time limit; returns the name of a reason. Ranks agree at a step boundary (training/loop.py).
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import FrameType

from hpctrain.scheduler.time_limit import TimeLimit
from hpctrain.storage.run_state import Reason, reasons_of_signals

# In order of weight: if ranks see different reasons, the first one counts.
STOP_REASONS = (Reason.INTERRUPTED, Reason.TIME_LIMIT, Reason.PREEMPTED, Reason.TERMINATED)

LOOK_S = 1.0
_SIGNALS = reasons_of_signals()


class StopFlag:
    """Set from signal handlers and the time limit; read once per step."""

    def __init__(self, limit: TimeLimit | None = None) -> None:
        """`limit` is the job's time limit if this process observes it; it may also be set later."""
        self.reason: str | None = None
        self.limit = limit
        self._request: Path | None = None
        self._looked_s = 0.0

    def watch(self, request: Path) -> None:
        """Look once in LOOK_S for the file `request`, which asks to stop and may come from any machine."""
        self._request = request

    def install(self) -> None:
        """Take over the signals of this process, submitit's handlers included."""
        for number in _SIGNALS:
            signal.signal(number, self._handle)

    def poll(self) -> str | None:
        """Returns the reason to stop, or None."""
        if self.reason is None and self._request is not None and time.monotonic() - self._looked_s >= LOOK_S:
            self._looked_s = time.monotonic()
            if self._request.exists():
                self.reason = Reason.INTERRUPTED
        # The warning and the limit come at the same time; a minute more allows for Slurm's rounding.
        early_s = 60.0 if self.reason else 0.0
        if self.limit and self.reason in (None, Reason.PREEMPTED) and self.limit.is_near(early_s):
            self.reason = Reason.TIME_LIMIT
        return self.reason

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.reason = self.reason or _SIGNALS[signal.Signals(number)]
