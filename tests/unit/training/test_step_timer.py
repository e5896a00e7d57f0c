"""Where the time of a step goes, by a clock that the test moves."""

import pytest
import torch

from hpctrain.training import step_timer
from hpctrain.training.step_timer import PARTS, Clock


@pytest.fixture
def now(monkeypatch):
    """Seconds, in a list of one."""
    seconds = [100.0]
    monkeypatch.setattr(step_timer.time, "perf_counter", lambda: seconds[0])
    return seconds


class Event:
    """An event of a stream whose time is `now`. As torch's, it tells no times that it was not asked to keep."""

    def __init__(self, now, waited, enable_timing=False):
        self.now, self.waited, self.timed = now, waited, enable_timing

    def record(self):
        self.at = self.now[0]

    def synchronize(self):
        self.waited.append(self.at)

    def elapsed_time(self, later):
        assert self.timed
        assert later.timed
        assert self.waited, "the stream has not come so far"
        return 1e3 * (later.at - self.at)


@pytest.fixture
def waited(monkeypatch, now):
    """The events of the stream that were waited for."""
    events = []
    monkeypatch.setattr(torch.cuda, "Event", lambda **settings: Event(now, events, **settings))
    return events


def seconds(**parts):
    return dict.fromkeys(PARTS, 0.0) | parts


@pytest.mark.usefixtures("waited")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_each_part_has_the_time_up_to_its_mark(now, device):
    clock = Clock(torch.device(device))
    for part, duration in (("data", 1.0), ("forward", 2.0), ("data", 4.0), ("backward", 8.0)):
        now[0] += duration
        clock.mark(part)
    now[0] += 16.0
    assert clock.take() == seconds(data=5.0, forward=2.0, backward=8.0)
    # What was taken does not come again; the time since the last mark belongs to the next one.
    clock.mark("other")
    assert clock.take() == seconds(other=16.0)
    assert clock.take() == seconds()


def test_a_gpu_is_waited_for_only_when_its_times_are_taken(now, waited):
    clock = Clock(torch.device("cuda"))
    for _ in range(3):
        now[0] += 1.0
        clock.mark("forward")
    assert waited == []
    clock.take()
    assert waited == [103.0]  # the last mark


def test_a_part_that_is_not_known_is_an_error(now):
    with pytest.raises(KeyError, match="lunch"):
        Clock(torch.device("cpu")).mark("lunch")
