"""Records of metrics.jsonl: written in one form, read in that and in the older one."""

import json

import pytest

from hpctrain.storage import records
from hpctrain.storage.records import (
    Damage,
    Rates,
    SummaryRecord,
    TrainRecord,
    ValidationRecord,
    from_line,
    last_record,
    read_lines,
    summary_records,
    to_line,
    train_records,
    validation_records,
)

TRAIN = TrainRecord(
    8,
    0.5,
    256,
    0.1,
    {"loss": 1.5, "accuracy": 0.25},
    Rates(100.0, 2e9, 3.0, 0.4, 0.5),
    2.56,
    8,
    {"data": 1.0},
)
# What version 0.1.0 wrote of the same window, cut short by a stop.
OLD = {
    "kind": "train", "attempt": 2, "time": 9.5, "step": 8, "epoch": 0.5, "samples": 256, "lr": 0.1, "loss": 1.5,
    "accuracy": 0.25, "samples_per_s": 100.0, "flops": 2e9, "gflop_per_s": 3.0, "mfu": 0.4, "roofline_share": 0.5,
    "window_s": 2.56, "window_steps": 8, "step_ms": {"data": 1.0}, "cut": True,
}  # fmt: skip


def test_scores_are_apart_from_the_records_own_keys():
    line = to_line(TRAIN, 2, 9.5)
    assert line["scores"] == {"loss": 1.5, "accuracy": 0.25}
    apart = ("loss", "accuracy", "cut")
    assert not set(apart) & line.keys()
    assert {k: v for k, v in OLD.items() if k not in apart}.items() <= line.items()


def test_what_is_written_is_read():
    for record in (
        TRAIN,
        ValidationRecord(16, 1.0, {"loss": 1.0}),
        SummaryRecord(16, "DONE", {"samples": 512, "validation": {"loss": 1.0}}),
    ):
        read = from_line(json.loads(json.dumps(to_line(record, 0, 1.0))))
        assert read == record


def test_an_older_record_has_the_same_meaning():
    found = from_line(OLD)
    assert (found.scores, found.rates, found.cut) == (TRAIN.scores, TRAIN.rates, True)
    assert (found.step, found.window_s, found.window_steps, found.attempt) == (8, 2.56, 8, 2)
    old = {
        "kind": "validation",
        "attempt": 1,
        "time": 1.0,
        "step": 8,
        "epoch": 1.0,
        "loss": 0.5,
        "perplexity": 1.6,
    }
    assert from_line(old) == ValidationRecord(8, 1.0, {"loss": 0.5, "perplexity": 1.6}, 1)


def test_a_run_that_older_and_newer_attempts_wrote(tmp_path):
    file = tmp_path / "metrics.jsonl"
    summary = to_line(SummaryRecord(8, "DONE", {"validation": {"loss": 1.0}}), 1, 2.0)
    lines = [OLD, to_line(TRAIN, 3, 1.0), to_line(ValidationRecord(8, 1.0, {"loss": 1.0}), 3, 1.0), summary]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "train", "st')
    assert [(r.attempt, r.scores["loss"]) for r in train_records(file)] == [(2, 1.5), (3, 1.5)]
    assert [r.scores for r in validation_records(file)] == [{"loss": 1.0}]
    assert list(read_lines(file)) == lines


def test_no_file_and_unknown_lines_are_no_records(tmp_path):
    assert train_records(tmp_path / "none") == validation_records(tmp_path / "none") == []
    (tmp_path / "m").write_text('{"kind": "train2"}\n["train", "validation"]\n')
    assert train_records(tmp_path / "m") == validation_records(tmp_path / "m") == []


def test_a_window_that_was_cut_short_says_so():
    assert "cut" not in to_line(TRAIN, 1, 1.0)
    assert to_line(TrainRecord(cut=True), 1, 1.0)["cut"] is True


def test_a_summary_s_figures_are_keys_of_the_record():
    line = to_line(SummaryRecord(16, "DONE", {"samples": 512}), 2, 9.5)
    assert line == {
        "kind": "summary",
        "attempt": 2,
        "time": 9.5,
        "step": 16,
        "reason": "DONE",
        "samples": 512,
    }
    assert from_line(line) == SummaryRecord(16, "DONE", {"samples": 512}, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"step": 1.5}, {"step": True}, {"samples": "x"}, {"window_steps": None}, {"attempt": "1"}, {"epoch": "x"},
        {"lr": [1]}, {"window_s": {}}, {"epoch": None}, {"samples_per_s": ""}, {"flops": "x"}, {"gflop_per_s": "x"},
        {"mfu": "x"}, {"roofline_share": "x"}, {"scores": [1]}, {"scores": {"loss": "x"}}, {"step_ms": 3},
        {"step_ms": {"data": None}}, {"kind": "other"}, {"kind": None},
    ],
)  # fmt: skip
def test_a_line_that_is_damaged_is_no_record(changes):
    assert from_line(to_line(TRAIN, 1, 1.0) | changes) is None


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        ({"mfu": None, "gflop_per_s": None}, Rates(100.0, 2e9, None, None, 0.5)),
        ({"flops": 2}, Rates(100.0, 2, 3.0, 0.4, 0.5)),
    ],
)
def test_a_figure_that_is_not_known_is_none(changes, rates):
    assert from_line(to_line(TRAIN, 1, 1.0) | changes).rates == rates


def test_the_least_that_a_line_can_say():
    assert from_line({"kind": "train"}) == TrainRecord()
    assert from_line({"kind": "validation"}) == ValidationRecord()
    assert from_line({"kind": "summary"}) == SummaryRecord()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "metrics.jsonl"


def test_what_is_no_record_is_counted(file):
    good, torn, unsound = b'{"kind": "other"}', b'{"kind": "tr', b'{"step": "x"}'
    file.write_bytes(b"\n".join([torn, b"", good, unsound, b"[1]", good + b"\n"]))
    damage = Damage()
    assert list(read_lines(file, damage)) == [{"kind": "other"}] * 2
    assert damage == Damage(3, len(torn) + len(unsound) + 3)


def test_the_last_record_is_the_last_that_can_be_read(file, monkeypatch):
    assert last_record(file) is None
    lines = [to_line(TRAIN, 1, 1.0), to_line(ValidationRecord(9), 1, 2.0), {"kind": "other"}, {}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "tr')
    assert last_record(file) == ValidationRecord(9, attempt=1)
    # Of a long file the end is read.
    monkeypatch.setattr(records, "LAST_BYTES", len(json.dumps(lines[1])) + 40)
    assert last_record(file) == ValidationRecord(9, attempt=1)
    monkeypatch.setattr(records, "LAST_BYTES", 40)
    assert last_record(file) is None


def test_what_cannot_be_read_has_no_records_or_says_so(file):
    file.mkdir()
    assert last_record(file) is None
    assert validation_records(file) == []
    for read in (train_records, summary_records, lambda path: list(read_lines(path))):
        with pytest.raises(OSError, match=r"metrics.jsonl"):
            read(file)


def test_records_are_found_by_kind(file):
    lines = [
        to_line(r, 1, 1.0) for r in (TRAIN, ValidationRecord(8), SummaryRecord(8, "DONE"), SummaryRecord(9))
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + 'not JSON "summary"\n')
    assert [record.step for record in train_records(file)] == [8]
    assert [record.step for record in validation_records(file)] == [8]
    assert [record.step for record in summary_records(file)] == [8, 9]
