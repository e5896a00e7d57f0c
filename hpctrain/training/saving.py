"""Saves a run: makes one snapshot of the state of all ranks and of the progress, for the checkpointer."""

from __future__ import annotations

import torch

from hpctrain.checkpoints.saver import Checkpointer, Snapshot
from hpctrain.config.settings import Config
from hpctrain.training import progress, state
from hpctrain.training.comm import Comm
from hpctrain.training.progress import Ledger, Progress
from hpctrain.training.schedule import Schedule
from hpctrain.training.step_timer import Clock
from hpctrain.training.window import WindowRecorder


class Saving:
    """Saves a run whose progress is `at`. All methods are collective."""

    def __init__(
        self,
        checkpointer: Checkpointer,
        config: Config,
        comm: Comm,
        device: torch.device,
        live: state.Live,
        at: Progress,
        ledger: Ledger,
        schedule: Schedule,
        window: WindowRecorder,
        clock: Clock,
    ) -> None:
        self._checkpointer, self._config, self._comm, self._device = checkpointer, config, comm, device
        self._live, self._at, self._ledger, self._schedule = live, at, ledger, schedule
        self._window, self._clock = window, clock
        self._saved_at = at.step
        checkpointer.reserve(self._capture())

    def save(self, metric: float | None = None) -> None:
        """Save the present state. `metric`: the validation loss, if this step was validated."""
        self._checkpointer.save(self._capture(), metric)
        self._saved_at = self._at.step
        self._clock.mark("checkpoint")

    def finish(self) -> None:
        """Save the last steps unless they are saved already, and wait until everything is on disk."""
        if self._saved_at < self._at.step:
            self.save()
        self._checkpointer.finish(self._comm.gather_objects)

    def _capture(self) -> Snapshot:
        self._window.measure()
        at, total = self._at, self._ledger.total(self._comm.gather_objects(self._ledger.share))
        next_lr = self._schedule.lr(at.step, at.validation_losses)
        document = progress.document(at, total, self._config, self._schedule.steps_per_epoch, next_lr)
        return state.capture(self._live, self._comm, self._device, document)
