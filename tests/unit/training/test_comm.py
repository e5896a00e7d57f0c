"""The watchdog around collectives, without ranks."""

import os
import threading
import time

import pytest

from hpctrain import patience
from hpctrain.config.settings import CommConfig
from hpctrain.training import comm
from hpctrain.training.comm import Watchdog
from tests.waiting import until


class Stuck:
    """What the watchdog says, and when it says it."""

    def __init__(self):
        self.said, self.happened = [], threading.Event()

    def __call__(self, message):
        self.said.append(message)
        self.happened.set()


@pytest.fixture
def watchdog():
    """Makes a watchdog; its thread ends with the test, as it does once it has found one stuck."""
    made = []

    def make(timeout_s, stuck):
        made.append(Watchdog(timeout_s, stuck))
        return made[-1]

    yield make
    for each in made:
        each._timeout_s = 0.0
        each.__enter__()
    until(lambda: all(thread.name != "watchdog" for thread in threading.enumerate()))


def test_a_collective_without_an_answer_is_stuck(watchdog):
    stuck = Stuck()
    with watchdog(0.2, stuck):
        assert stuck.happened.wait(10)
    assert stuck.said == ["no answer from the other ranks in 0.2 s (comm.timeout_s)"]


def test_collectives_that_end_and_the_time_between_them_are_not(watchdog):
    stuck = Stuck()
    watch = watchdog(0.5, stuck)
    for _ in range(8):
        with watch:
            time.sleep(0.1)
    time.sleep(0.7)
    assert not stuck.happened.is_set()


@pytest.mark.parametrize("stop_s", [100.0, 1e6])
def test_a_stop_of_the_whole_process_is_not(watchdog, monkeypatch, stop_s):
    """After a stop the clock has jumped, whichever thread looks at it first."""
    ahead_s = [0.0]
    monotonic = time.monotonic
    monkeypatch.setattr(patience.time, "monotonic", lambda: monotonic() + ahead_s[0])
    stuck = Stuck()
    watch = watchdog(5.0, stuck)
    with watch:
        time.sleep(0.1)
        ahead_s[0] += stop_s
        assert not stuck.happened.wait(1.5)


def test_neither_horovod_nor_gloo_counts_beside_it(monkeypatch):
    monkeypatch.setattr(os, "environ", {"HOROVOD_CYCLE_TIME": "3"})
    comm._set_environment(CommConfig(timeout_s=30.0))
    assert os.environ["HOROVOD_STALL_SHUTDOWN_TIME_SECONDS"] == "0"
    assert float(os.environ["HOROVOD_GLOO_TIMEOUT_SECONDS"]) > 30 * 86400
    assert os.environ["HOROVOD_STALL_CHECK_TIME_SECONDS"] == "15"
    assert os.environ["HOROVOD_CYCLE_TIME"] == "3"
