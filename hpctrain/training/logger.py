"""What a logger is: an object that receives every record of a run. reporter.LOGGERS lists all loggers."""

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
    """Made from the run directory and the `Start` of the attempt, only on rank 0."""

    def record(self, record: Record) -> None:
        """Take one record. Raises OSError if it cannot be written now; the next record still comes."""

    def close(self) -> None:
        """No record follows. Raises OSError if the rest cannot be written."""
