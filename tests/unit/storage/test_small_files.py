"""Files of a run that anything may have happened to: its pause, its records."""

import os

import pytest

from hpctrain.errors import Damaged
from hpctrain.storage.records import Damage, last_record, read_lines, train_records

TRAIN = {"kind": "train", "attempt": 1, "time": 5.0, "step": 30, "epoch": 1.5, "scores": {"loss": 0.5}}


@pytest.mark.parametrize("text", ["", "[]", '{"epochs": "3"}', '{"epochs": 0}', '{"epochs": null}'])
def test_a_damaged_pause_is_not_taken_for_none(run, text):
    run.pause_file.write_text(text)
    with pytest.raises(Damaged, match=r"pause.json is damaged"):
        run.read_pause()


GARBAGE = {
    "binary": bytes(range(256)),
    "a cut line": b'{"kind": "train", "st',
    "zeros": b"\0" * 4096,
    "another type": b'{"kind": "train", "step": "x"}\n',
    "no table of scores": b'{"kind": "train", "step": 31, "scores": [1]}\n',
    "deep": b"[" * 100_000 + b"\n",
}


class TestRecords:
    @pytest.mark.parametrize("name", GARBAGE)
    def test_garbage_at_the_end_is_passed_over(self, run, name):
        run.record(TRAIN)
        with run.metrics_file.open("ab") as file:
            file.write(GARBAGE[name])
        damage = Damage()
        assert list(read_lines(run.metrics_file, damage)) == [TRAIN]
        assert damage.lines >= 1
        assert [record.step for record in train_records(run.metrics_file)] == [30]
        assert last_record(run.metrics_file).step == 30

    def test_what_is_no_file_has_no_last_record(self, run):
        os.mkfifo(run.metrics_file)
        assert last_record(run.metrics_file) is None
