"""The window of a training record: what counts, what does not, and what goes on in another attempt."""

import pytest

from hpctrain.storage.records import Rates, TrainRecord
from hpctrain.training import window
from hpctrain.training.progress import Progress, Window
from hpctrain.training.window import WindowRecorder


class Task:
    width = 2

    def summarise(self, sums):
        return {"loss": sums[0] / sums[1]}


class Costs:
    def rates(self, steps, samples, wall_s):
        return Rates(samples_per_s=samples / wall_s, flops=float(steps))


class Clock:
    """Half a second for data since the last time that it was asked."""

    def take(self):
        return {"data": 0.5}


class Report:
    def __init__(self):
        self.records, self.lines = [], []

    def record(self, record):
        self.records.append(record)

    def say(self, line):
        self.lines.append(line)


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(window.time, "perf_counter", lambda: now[0])
    return now


def test_a_window_adds_up_steps_and_times(clock):
    at, report = Progress(window=Window(sums=[0.0, 0.0]), elapsed_s=50.0), Report()
    recorder = WindowRecorder(at, Task(), Costs(), Clock(), report)
    assert recorder.figures == {}
    recorder.add([5.0, 1.0])
    recorder.add([1.0, 3.0])
    assert (at.window.sums, at.window.good_steps) == ([6.0, 4.0], 2)
    at.step, at.samples = 2, 32
    clock[0] += 4.0
    assert recorder.elapsed_s == 54.0
    recorder.record(0.1, 0.5, 8, cut=False)
    (record,) = report.records
    parts = record.step_ms
    assert record == TrainRecord(2, 0.5, 32, 0.1, {"loss": 1.5}, Rates(8.0, 2.0), 4.0, 2, parts)
    assert (parts["data"], parts["forward"]) == (250.0, 0.0)
    assert report.lines == ["step 2/8 epoch 0.50: loss 1.5, 8 samples/s"]
    assert recorder.figures["loss"] == 1.5
    assert at.window == Window(2, 32, sums=[0.0, 0.0])
    assert at.elapsed_s == 54.0


def test_a_window_begins_where_the_last_one_ended(clock):
    at, report = Progress(window=Window(sums=[0.0, 0.0])), Report()
    recorder = WindowRecorder(at, Task(), Costs(), Clock(), report)
    for step, seconds in ((2, 4.0), (3, 1.0)):
        recorder.add([1.0, 1.0])
        at.step, at.samples = step, 16 * step
        clock[0] += seconds
        recorder.record(0.1, step / 4, 8, cut=False)
    second = report.records[1]
    assert (second.step, second.samples, second.window_steps, second.window_s) == (3, 48, 1, 1.0)
    assert second.rates.samples_per_s == 16.0
    assert second.step_ms["data"] == 500.0


def test_sums_of_another_task_are_an_error(clock):
    recorder = WindowRecorder(Progress(window=Window(sums=[0.0, 0.0])), Task(), Costs(), Clock(), Report())
    with pytest.raises(ValueError, match="zip"):
        recorder.add([1.0])


def test_a_window_that_a_stop_cuts_short_goes_on(clock):
    at, report = Progress(window=Window(sums=[0.0, 0.0])), Report()
    recorder = WindowRecorder(at, Task(), Costs(), Clock(), report)
    recorder.add([1.0, 1.0])
    at.step, at.samples = 1, 16
    clock[0] += 1.0
    recorder.record(0.1, 0.25, 8, cut=True)
    later = WindowRecorder(at, Task(), Costs(), Clock(), report)  # another attempt, from the checkpoint
    later.add([2.0, 1.0])
    at.step, at.samples = 2, 32
    clock[0] += 3.0
    later.record(0.1, 0.5, 8, cut=False)
    first, second = report.records
    assert (first.cut, first.window_steps, first.window_s) == (True, 1, 1.0)
    assert (second.cut, second.window_steps, second.window_s, second.scores) == (False, 2, 4.0, {"loss": 1.5})
    assert (first.step_ms["data"], second.step_ms["data"]) == (500.0, 500.0)  # of two steps, a whole second


def test_time_outside_of_training_is_left_out(clock):
    at, report = Progress(window=Window(sums=[0.0, 0.0])), Report()
    recorder = WindowRecorder(at, Task(), Costs(), Clock(), report)
    clock[0] += 10.0
    recorder.leave_out()
    at.step, at.samples = 1, 16
    clock[0] += 2.0
    recorder.record(0.1, 0.25, 8, cut=False)
    (record,) = report.records
    assert (record.window_s, record.scores) == (2.0, {})  # no step was finite: nothing to score
