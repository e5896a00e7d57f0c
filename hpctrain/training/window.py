"""The window of steps between two training records: its sums, and the record at its end.

Takes the sums of each step; keeps them in `Progress.window`, which a checkpoint holds, so that a window continues in
the next attempt. Side effects: records and lines for people, through the reporter. Times in seconds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict

from hpctrain.storage.records import TrainRecord
from hpctrain.tasks import Task
from hpctrain.training.flop_accounting import Costs
from hpctrain.training.progress import Progress, Window
from hpctrain.training.reporter import Reporter, shown
from hpctrain.training.step_timer import PARTS, Clock


class WindowRecorder:
    """Measures the window of `at` and records it."""

    def __init__(self, at: Progress, task: Task, costs: Costs, clock: Clock, report: Reporter) -> None:
        self._at, self._task, self._costs, self._clock, self._report = at, task, costs, clock, report
        self._run_began = time.perf_counter() - at.elapsed_s
        self._part_began = time.perf_counter()
        self.figures: dict[str, float | None] = {}  # of the last record, for the heartbeat

    def add(self, sums: Sequence[float]) -> None:
        """Add a finite step's task sums, over all ranks."""
        window = self._at.window
        window.sums = [total + more for total, more in zip(window.sums, sums, strict=True)]
        window.good_steps += 1

    def measure(self) -> None:
        """Add the time until now to `at` and to its window."""
        now, window = time.perf_counter(), self._at.window
        self._at.elapsed_s = now - self._run_began
        window.seconds, self._part_began = window.seconds + now - self._part_began, now
        for part, part_s in self._clock.take().items():
            window.parts_s[part] = window.parts_s.get(part, 0.0) + part_s

    def leave_out(self) -> None:
        """Do not count the time since the last measurement as training."""
        self._clock.take()
        self._part_began = time.perf_counter()

    def record(self, lr: float, epoch: float, total_steps: int, *, cut: bool) -> None:
        """Record the window. Unless a stop has `cut` it short, the next one begins here."""
        self.measure()
        at, window = self._at, self._at.window
        steps = at.step - window.step
        scores = self._task.summarise(window.sums) if window.good_steps else {}
        rates = self._costs.rates(steps, at.samples - window.samples, window.seconds)
        step_ms = {part: 1e3 * window.parts_s.get(part, 0.0) / steps for part in PARTS}
        self._report.record(
            TrainRecord(at.step, epoch, at.samples, lr, scores, rates, window.seconds, steps, step_ms, cut)
        )
        self.figures = scores | asdict(rates)
        self._report.say(f"step {at.step}/{total_steps} epoch {epoch:.2f}: {shown(self.figures)}")
        if not cut:
            at.window = Window(at.step, at.samples, sums=[0.0] * self._task.width)

    @property
    def elapsed_s(self) -> float:
        """Seconds of the whole run up to now, earlier attempts included."""
        return time.perf_counter() - self._run_began
