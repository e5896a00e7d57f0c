"""metrics.jsonl: every record of a run as one JSON object per line (storage/records.py)."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from hpctrain.storage.json_files import replace_text
from hpctrain.storage.records import (
    Damage,
    Record,
    TrainRecord,
    ValidationRecord,
    from_line,
    read_lines,
    to_line,
)
from hpctrain.storage.run_dir import RunDir
from hpctrain.training.logger import Start


class JsonLines:
    """The logger that every run has; other commands read what it writes."""

    def __init__(self, run: RunDir, start: Start) -> None:
        """Open the file, and drop what is damaged and the records of work that this attempt does again."""
        file = run.metrics_file
        if os.path.lexists(file):
            kept = [line for line in _readable(file) if _stands(from_line(line), start)]
            replace_text(file, "".join(json.dumps(line) + "\n" for line in kept))
        self._attempt = start.attempt
        self._file = file.open("a", buffering=1)

    def record(self, record: Record) -> None:
        """Write one line."""
        line = to_line(record, self._attempt, round(time.time(), 3))
        self._file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _readable(file: Path) -> list[dict[str, Any]]:
    """The records of the file; says in the log what is lost of a damaged one."""
    damage = Damage()
    try:
        lines = list(read_lines(file, damage))
    except OSError as error:
        print(f"{file.name} cannot be read and begins anew: {error}", flush=True)
        return []
    if damage.lines:
        print(f"{file.name}: {damage.lines} damaged lines are dropped, {damage.size} bytes", flush=True)
    return lines


def _stands(record: Record | None, start: Start) -> bool:
    """Whether the record is of work that the checkpoint holds. A window that a stop cut short is recorded again."""
    if isinstance(record, ValidationRecord):
        return record.step <= start.validated_at
    if isinstance(record, TrainRecord) and record.cut:
        return False
    return record is not None and record.step <= start.step
