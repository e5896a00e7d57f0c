"""metrics.jsonl: every record of a run as one JSON object per line (storage/records.py)."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import deque
from pathlib import Path
from typing import Any

from hpctrain.storage.files import open_regular
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
        """Open the file; drop damaged lines, and the records of work that this attempt does again."""
        file = run.metrics_file
        if os.path.lexists(file):
            kept = [line for line in _readable(file) if _stands(from_line(line), start)]
            text = "".join(json.dumps(line) + "\n" for line in kept)
            if not _holds(file, text):  # a copy would need space on the disk
                replace_text(file, text)
        self._attempt = start.attempt
        self._file = file.open("ab", buffering=0)
        self._lines = deque[bytes]()  # those that are not written yet, the oldest first

    def record(self, record: Record) -> None:
        """Write one line. Raises OSError if the disk does not take it; then it is written before the next one."""
        line = to_line(record, self._attempt, round(time.time(), 3))
        self._lines.append(f"{json.dumps(line)}\n".encode())
        self._write()

    def close(self) -> None:
        """Write what is left, and close the file. Raises OSError."""
        try:
            self._write()
        finally:
            self._file.close()

    def _write(self) -> None:
        """Write whole lines only; remove a part of a line that the disk took."""
        while self._lines:
            whole = os.fstat(self._file.fileno()).st_size
            data = memoryview(self._lines[0])
            try:
                while data:
                    data = data[self._file.write(data) or 0 :]
            except OSError:
                with contextlib.suppress(OSError):
                    self._file.truncate(whole)
                raise
            self._lines.popleft()


def _readable(file: Path) -> list[dict[str, Any]]:
    """Returns the records of the file; says in the log what a damaged file has lost."""
    damage = Damage()
    try:
        lines = list(read_lines(file, damage))
    except OSError as error:
        print(f"{file.name} cannot be read and begins again: {error}", flush=True)
        return []
    if damage.lines:
        print(f"{file.name}: {damage.lines} damaged lines are dropped, {damage.size} bytes", flush=True)
    return lines


def _holds(file: Path, text: str) -> bool:
    """Whether the file is a regular one with this text."""
    try:
        with os.fdopen(open_regular(file), "rb") as open_file:
            return open_file.read() == text.encode()
    except OSError:
        return False


def _stands(record: Record | None, start: Start) -> bool:
    """Whether the checkpoint holds the record's work. A window that a stop cut short is recorded again."""
    if isinstance(record, ValidationRecord):
        return record.step <= start.validated_at
    if isinstance(record, TrainRecord) and record.cut:
        return False
    return record is not None and record.step <= start.step
