"""Records of metrics.jsonl: written in one form, read in that and in the older one."""

import json

from hpctrain.storage.records import (
    Rates,
    SummaryRecord,
    TrainRecord,
    ValidationRecord,
    from_line,
    read_lines,
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
    scores = {"scores": {"loss": 1.5, "accuracy": 0.25}}
    assert line == {k: v for k, v in OLD.items() if k not in ("loss", "accuracy", "cut")} | scores


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
