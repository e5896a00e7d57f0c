"""The records of metrics.jsonl: what each one says, and the one reader of all that was ever written.

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

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

Scores = dict[str, float]


@dataclass(frozen=True)
class Rates:
    """Throughput of all ranks together. A figure is None if it is not known.

    `flops`: operations of the whole window. `mfu`: share of the devices' peak. `roofline_share`: shortest possible time
    over the time taken.
    """

    samples_per_s: float | None = None
    flops: float = 0.0
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
    """Returns the record of a JSON object, in the present form or the old one; None if its kind is unknown."""

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


def _scores(line: Mapping[str, Any]) -> Scores:
    if "scores" in line:
        return dict(line["scores"])
    return {key: value for key, value in line.items() if key not in _OWN_KEYS}


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the complete lines of metrics.jsonl; none if the file is missing. A torn line is left out."""
    return _parsed(path, "")


def train_records(path: Path) -> list[TrainRecord]:
    """Returns the training records of metrics.jsonl, the oldest first."""
    records = map(from_line, _parsed(path, '"train"'))
    return [record for record in records if isinstance(record, TrainRecord)]


def validation_records(path: Path) -> list[ValidationRecord]:
    """Returns the validation records of metrics.jsonl, the oldest first; none if the file cannot be read."""
    try:
        records = [from_line(line) for line in _parsed(path, '"validation"')]
    except OSError:
        return []
    return [record for record in records if isinstance(record, ValidationRecord)]


def summary_records(path: Path) -> list[SummaryRecord]:
    """Returns the records of how attempts ended in good order, the oldest first."""
    records = map(from_line, _parsed(path, '"summary"'))
    return [record for record in records if isinstance(record, SummaryRecord)]


def _parsed(path: Path, word: str) -> Iterator[dict[str, Any]]:
    """The JSON objects among the lines that have `word`; the others are not even parsed: a study has many."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        if word in line:
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    yield value
