"""metrics.jsonl: every record of a run as one JSON object per line (storage/records.py)."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import deque

from hpctrain.storage.json_files import replace_text
from hpctrain.storage.records import Record, TrainRecord, ValidationRecord, from_line, read_lines, to_line
from hpctrain.storage.run_dir import RunDir
from hpctrain.training.logger import Start


class JsonLines:
    """The logger that every run has; other commands read what it writes."""

    def __init__(self, run: RunDir, start: Start) -> None:
        """Open the file, and drop the records of work that this attempt does again."""
        file = run.metrics_file
        if file.exists():
            kept = [line for line in read_lines(file) if _stands(from_line(line), start)]
            text = "".join(json.dumps(line) + "\n" for line in kept)
            if text.encode() != file.read_bytes():  # a copy needs room on the disk
                replace_text(file, text)
        self._attempt = start.attempt
        self._file = file.open("ab", buffering=0)
        self._lines = deque[bytes]()  # what is not written yet, the oldest first

    def record(self, record: Record) -> None:
        """Write one line. Raises OSError if the disk does not take it; it is written before the next one then."""
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
        """Write whole lines only: one that the disk takes in part is cut off again."""
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


def _stands(record: Record | None, start: Start) -> bool:
    """Whether the record is of work that the checkpoint holds. A window that a stop cut short is recorded again."""
    if isinstance(record, ValidationRecord):
        return record.step <= start.validated_at
    if isinstance(record, TrainRecord) and record.cut:
        return False
    return record is not None and record.step <= start.step
