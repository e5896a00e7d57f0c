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
    for _ in range(2):
        recorder.add([3.0, 2.0])
        at.step, at.samples = at.step + 1, at.samples + 16
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
