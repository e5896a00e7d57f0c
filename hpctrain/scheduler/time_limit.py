"""When Slurm will end this job: Slurm says how long is left, and the monotonic clock counts from there.

Takes a function that asks Slurm how long is left; answers whether the end is near. Slurm is asked again before a job
stops for its limit, because the limit may have been changed or the job suspended, and both move the end. The node's
clock is not used. Pure, except for the clock and the thread of `watch`. Times in seconds.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

# Returns how many seconds this job has left; None if Slurm does not say.
TimeLeft = Callable[[], float | None]

ASK_S = 600.0  # between two questions while the end is far
RETRY_S = 60.0  # between two questions while the end is not known
CONFIRM_S = 10.0  # before the job stops, Slurm is asked once more
TICK_S = 1.0


class TimeLimit:
    """The end of this job, and the moment `margin_s` before it, at which the job stops by itself."""

    def __init__(
        self, ask: TimeLeft, margin_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Does not ask yet: the owner calls `look` about every second."""
        self._ask, self._margin_s, self._clock = ask, margin_s, clock
        self._stop_s: float | None = None
        self._asked_s = -math.inf

    def look(self) -> None:
        """Asks Slurm if it is time to do so. A question without an answer changes nothing."""
        began_s = self._clock()
        if not self._is_due(began_s):
            return
        left_s, ended_s = self._ask(), self._clock()
        if left_s is not None:
            self._stop_s = began_s + left_s - self._margin_s
        elif ended_s - began_s > RETRY_S:
            return  # there is no answer because this process was stopped meanwhile
        self._asked_s = ended_s

    def is_near(self, early_s: float = 0.0) -> bool:
        """Returns whether it is time to stop, or will be in `early_s` seconds.

        An old answer of Slurm is enough to explain why a job was told to stop (`early_s` > 0), but not to stop it.
        """
        now, asked_s, stop_s = self._clock(), self._asked_s, self._stop_s
        if stop_s is None or now < stop_s - early_s:
            return False
        return early_s > 0 or asked_s >= stop_s - CONFIRM_S

    def watch(self) -> None:
        """Calls `look` every second from now on, in a thread, so that a step never waits for Slurm."""

        def look_on() -> None:
            while True:
                self.look()
                time.sleep(TICK_S)

        threading.Thread(target=look_on, name="time limit", daemon=True).start()

    def _is_due(self, now: float) -> bool:
        if self._stop_s is None:
            return now >= self._asked_s + RETRY_S
        if now >= self._asked_s + ASK_S:
            return True
        return now >= self._stop_s - CONFIRM_S > self._asked_s
