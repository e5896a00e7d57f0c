"""Measures the parts of a step. `mark` closes a part; `take` returns seconds per part since the last `take`.

On a GPU, parts are measured between events on the stream, so that `mark` does not wait.
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import torch

PARTS = ("data", "forward", "backward", "allreduce", "optimizer", "checkpoint", "other")


class Clock:
    """Seconds per part of a step, on the device's own clock."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._events: list[tuple[str, Any]] = []
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._last = time.perf_counter()
        self.mark("other")

    def mark(self, part: str) -> None:
        """Count the time since the last mark as `part`."""
        if self._gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append((part, event))
        else:
            now = time.perf_counter()
            self._seconds[part] += now - self._last
            self._last = now

    def take(self) -> dict[str, float]:
        """Returns the seconds per part since the last `take`; on a GPU this waits for the stream."""
        if self._gpu:
            self._events[-1][1].synchronize()
            for (_, before), (part, after) in pairwise(self._events):
                self._seconds[part] += before.elapsed_time(after) / 1e3
            self._events = self._events[-1:]
        taken, self._seconds = self._seconds, dict.fromkeys(PARTS, 0.0)
        return taken
