"""Waiting with a limit, in a process that may be stopped meanwhile: the time of a stop does not count.

A scheduler may suspend a job for hours (gang scheduling, `scontrol suspend`); its node's clocks run on, and after that
whatever waited by a clock alone would give up at once. Pure, except for the clock. Times in seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Patience:
    """Counts up to `limit_s` while somebody looks about every `tick_s`; of a longer gap, a stop, two ticks count."""

    def __init__(self, limit_s: float, tick_s: float = 1.0, clock: Callable[[], float] | None = None) -> None:
        """The count begins here. `clock`: seconds that never run backwards; None: this machine's."""
        self._left_s, self._longest_s, self._clock = limit_s, 2 * tick_s, clock or time.monotonic
        self._looked_s = self._clock()

    def is_over(self) -> bool:
        """Returns whether this process has waited for the limit, or longer. Call it about every tick."""
        now = self._clock()
        self._left_s -= min(now - self._looked_s, self._longest_s)
        self._looked_s = now
        return self._left_s <= 0
