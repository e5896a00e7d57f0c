"""The records of metrics.jsonl: what each one says, and the one reader of all forms that were ever written.

A line is one JSON object. Every record has `kind`, `attempt` and `time` (seconds since the epoch). The rest depends
on the kind; `step` and `epoch` say how far the run had come when the record was written:

    train        samples          taken since the beginning of the run
                 lr               learning rate of the last step
                 scores           {name: value}: the loss and the scores of the task, over the record's window
                 samples_per_s, flops, gflop_per_s, mfu, roofline_share    see `Rates`
                 window_s         seconds that the window took
                 window_steps     steps of the window
                 step_ms          {part: milliseconds per step}, the parts of training/step_timer.py
                 cut              true if a stop ended the window early; a resumed run writes the whole window again
    validation   scores           {name: value}: the loss and the scores of the task, over the validation set
    summary      reason           why the run ended
                 ...              the figures of the whole run, as in `summary` of state.json

Until version 0.1.0 each score was a key of the record itself. The reader takes both forms. No torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from hpctrain.storage.files import open_regular

LAST_BYTES = 2**20

Scores = dict[str, float]


@dataclass(frozen=True)
class Rates:
    """Throughput of all ranks together. A figure is None if it is not known.

    `flops`: operations of the whole window, updates included. `mfu`: the share of the devices' peak that those of the
    passes are (flops/roofline.py). `roofline_share`: the time at the roofline over the time taken.
    """

    samples_per_s: float | None = None
    flops: float | None = None
    gflop_per_s: float | None = None
    mfu: float | None = None
    roofline_share: float | None = None


@dataclass(frozen=True)
class TrainRecord:
    """The steps since the last record of this kind."""

    kind: ClassVar[str] = "train"

    step: int = 0
    epoch: float = 0.0
    samples: int = 0
    lr: float = 0.0
    scores: Scores = field(default_factory=dict)
    rates: Rates = Rates()
    window_s: float = 0.0
    window_steps: int = 0
    step_ms: dict[str, float] = field(default_factory=dict)
    cut: bool = False
    attempt: int = 0


@dataclass(frozen=True)
class ValidationRecord:
    """One pass over the validation set."""

    kind: ClassVar[str] = "validation"

    step: int = 0
    epoch: float = 0.0
    scores: Scores = field(default_factory=dict)
    attempt: int = 0


@dataclass(frozen=True)
class SummaryRecord:
    """The end of an attempt. `figures` are those of the whole run."""

    kind: ClassVar[str] = "summary"

    step: int = 0
    reason: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    attempt: int = 0


Record = TrainRecord | ValidationRecord | SummaryRecord

_RATES = tuple(f.name for f in fields(Rates))
_OWN_KEYS = {
    "kind", "time", *_RATES, *(f.name for kind in (TrainRecord, ValidationRecord) for f in fields(kind))
}  # fmt: skip


def to_line(record: Record, attempt: int, time_s: float) -> dict[str, Any]:
    """Returns the JSON object of a record that `attempt` writes at `time_s`."""
    values = asdict(record) | {"attempt": attempt}
    flat: dict[str, Any] = {"kind": record.kind, "attempt": values.pop("attempt"), "time": time_s}
    for key, value in values.items():
        if key in ("rates", "figures"):
            flat |= value
        elif key != "cut" or value:
            flat[key] = value
    return flat


def from_line(line: Mapping[str, Any]) -> Record | None:
    """Returns the record of a JSON object, in the present form or the old one; None if it is not one."""
    if not _is_sound(line):
        return None

    def known(kind: type) -> dict[str, Any]:
        return {f.name: line[f.name] for f in fields(kind) if f.name in line}

    match line.get("kind"):
        case "train":
            rates = Rates(**known(Rates))
            return TrainRecord(**known(TrainRecord) | {"scores": _scores(line), "rates": rates})
        case "validation":
            return ValidationRecord(**known(ValidationRecord) | {"scores": _scores(line)})
        case "summary":
            own = {"kind", "attempt", "time", "step", "reason"}
            figures = {key: value for key, value in line.items() if key not in own}
            return SummaryRecord(**known(SummaryRecord) | {"figures": figures})
    return None


def _is_sound(line: Mapping[str, Any]) -> bool:
    """Whether each value has its type: a line may be damaged and still be JSON."""
    whole = all(type(line.get(key, 0)) is int for key in ("step", "samples", "window_steps", "attempt"))
    numbers = all(isinstance(line.get(key, 0.0), int | float) for key in ("epoch", "lr", "window_s"))
    rates = all(isinstance(line.get(key), int | float | None) for key in _RATES)
    tables = (line.get("scores", {}), line.get("step_ms", {}))
    return whole and numbers and rates and all(
        isinstance(table, Mapping) and all(isinstance(v, int | float) for v in table.values()) for table in tables
    )  # fmt: skip


def _scores(line: Mapping[str, Any]) -> Scores:
    if "scores" in line:
        return dict(line["scores"])
    return {key: value for key, value in line.items() if key not in _OWN_KEYS}


@dataclass
class Damage:
    """How many lines and bytes of a file are not records."""

    lines: int = 0
    size: int = 0


def read_lines(path: Path, damage: Damage | None = None) -> Iterator[dict[str, Any]]:
    """Yields the complete lines of metrics.jsonl; none if the file is missing. Raises OSError if it is not a file.

    Leaves out torn and damaged lines, and counts them in `damage`.
    """
    for line in filter(None, _lines(path)):
        if (value := _object(line)) is not None and _is_sound(value):
            yield value
        elif damage is not None:
            damage.lines, damage.size = damage.lines + 1, damage.size + len(line)


def last_record(path: Path) -> Record | None:
    """Returns the last readable record in the last megabyte of metrics.jsonl; None if there is none."""
    try:
        for line in reversed(_lines(path, LAST_BYTES)):
            if (value := _object(line)) and (record := from_line(value)):
                return record
    except OSError:
        pass
    return None


def train_records(path: Path) -> list[TrainRecord]:
    """Returns the training records of metrics.jsonl, the oldest first."""
    records = map(from_line, _parsed(path, b'"train"'))
    return [record for record in records if isinstance(record, TrainRecord)]


def validation_records(path: Path) -> list[ValidationRecord]:
    """Returns the validation records of metrics.jsonl, the oldest first; none if the file cannot be read."""
    try:
        records = [from_line(line) for line in _parsed(path, b'"validation"')]
    except OSError:
        return []
    return [record for record in records if isinstance(record, ValidationRecord)]


def summary_records(path: Path) -> list[SummaryRecord]:
    """Returns the records of attempts that ended in good order, the oldest first."""
    records = map(from_line, _parsed(path, b'"summary"'))
    return [record for record in records if isinstance(record, SummaryRecord)]


def _parsed(path: Path, word: bytes) -> Iterator[dict[str, Any]]:
    """Yields the JSON objects of the lines that have `word`; does not parse other lines: a study has many."""
    for line in _lines(path):
        if word in line and (value := _object(line)) is not None:
            yield value


def _lines(path: Path, last_bytes: int | None = None) -> list[bytes]:
    """The lines of a regular file; none if it is missing. Raises OSError."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            if last_bytes is not None:
                file.seek(max(0, os.fstat(file.fileno()).st_size - last_bytes))
            return file.read().split(b"\n")
    except FileNotFoundError:
        return []


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
