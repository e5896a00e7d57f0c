"""The logger for TensorBoard: scores and figures of a run as curves, if `train.tensorboard` is on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hpctrain.errors import RunFailed
from hpctrain.storage.records import Record, to_line
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Reason
from hpctrain.training.logger import Start


class TensorBoard:
    """Writes the run's folder `tensorboard`."""

    def __init__(self, run: RunDir, start: Start) -> None:
        """Raises RunFailed(IMPORT_ERROR) if TensorBoard is not installed."""
        del start
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise RunFailed(
                Reason.IMPORT_ERROR,
                "train.tensorboard=true needs the extra: pip install 'hpctrain[tensorboard]'",
            ) from None
        self._open: Callable[[], Any] = lambda: SummaryWriter(str(run.tensorboard))
        self._writer: Any = None

    def record(self, record: Record) -> None:
        """Add each score and each figure under the record's kind, as in `validation/accuracy`.

        Raises OSError if an earlier record could not be written: then TensorBoard's writer has ended, and the records
        that it held are lost. The next record begins another file.
        """
        try:
            self._writer = self._writer or self._open()
            self._add(record)
        except OSError:
            self._writer = None
            raise

    def _add(self, record: Record) -> None:
        line = to_line(record, 0, 0.0)
        step = line.pop("step")
        figures = {key: line[key] for key in line if key not in ("attempt", "time")} | line.get("scores", {})
        for key, value in figures.items():
            if isinstance(value, float):
                self._writer.add_scalar(f"{record.kind}/{key}", value, step)

    def close(self) -> None:
        """Write the rest. Raises OSError."""
        if self._writer is not None:
            self._writer.close()
