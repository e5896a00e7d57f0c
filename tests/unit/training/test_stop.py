"""Why a run stops early."""

import signal

import pytest

from hpctrain.scheduler.time_limit import TimeLimit
from hpctrain.storage.run_state import Reason, reasons_of_signals
from hpctrain.training.stop import STOP_REASONS, StopFlag


def flag(left_s, margin_s=120.0):
    """Of a job of which Slurm says at this moment that it has `left_s` seconds; None: it says nothing."""
    limit = TimeLimit(lambda: left_s, margin_s)
    limit.look()
    return StopFlag(limit)


@pytest.mark.parametrize(("left_s", "reason"), [
    (None, None), (1e6, None), (150.0, None), (119.0, Reason.TIME_LIMIT), (-5.0, Reason.TIME_LIMIT),
])  # fmt: skip
def test_the_limit_alone(left_s, reason):
    assert flag(left_s).poll() == reason


@pytest.mark.parametrize(("left_s", "reason"), [
    (None, Reason.PREEMPTED), (1e6, Reason.PREEMPTED), (190.0, Reason.PREEMPTED), (170.0, Reason.TIME_LIMIT),
    (60.0, Reason.TIME_LIMIT),
])  # fmt: skip
def test_a_warning_near_the_limit_is_for_the_limit(left_s, reason):
    stop = flag(left_s)
    stop._handle(signal.SIGUSR2, None)
    assert stop.poll() == reason


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGINT, Reason.INTERRUPTED), (signal.SIGTERM, Reason.TERMINATED)]
)
def test_other_signals_keep_their_reason_at_the_limit(number, reason):
    stop = flag(10.0)
    stop._handle(number, None)
    assert stop.poll() == reason


def test_every_reason_that_a_signal_asks_for_is_one_that_ranks_agree_on():
    assert set(reasons_of_signals().values()) <= set(STOP_REASONS)


def test_without_a_limit_only_signals_count():
    stop = StopFlag()
    assert stop.poll() is None
    stop._handle(signal.SIGUSR2, None)
    stop._handle(signal.SIGTERM, None)
    assert stop.poll() == Reason.PREEMPTED, "the first one"
