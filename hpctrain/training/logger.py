"""What a logger is: something that is told of every record of a run. reporter.LOGGERS lists them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from hpctrain.storage.records import Record


@dataclass(frozen=True)
class Start:
    """Where an attempt begins: at `step`, with the last validation at step `validated_at`."""

    attempt: int
    step: int = 0
    validated_at: int = 0


class Logger(Protocol):
    """Made from the run directory and the `Start` of the attempt, on rank 0 alone."""

    def record(self, record: Record) -> None:
        """Take one record. Raises OSError if it cannot be written now; the next record comes all the same."""

    def close(self) -> None:
        """No record follows. Raises OSError if what is left cannot be written."""
