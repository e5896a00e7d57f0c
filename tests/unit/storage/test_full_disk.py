"""Writes that fail for a while: tried again, left out, or the end of the run."""

import errno
import io
import sys

import pytest

from hpctrain.errors import RunFailed
from hpctrain.storage import full_disk
from hpctrain.storage.full_disk import PATIENCE_S, Tolerance, left_out, patiently


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(full_disk.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(full_disk.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    return now


def failing(*errors):
    left = list(errors)

    def write():
        if left:
            raise left.pop(0)
        return "written"

    return write


FULL, QUOTA, READ_ONLY = (OSError(n, "as the test wishes") for n in (errno.ENOSPC, errno.EDQUOT, errno.EROFS))


def test_a_write_waits_for_room(clock):
    disk_full = RunFailed("DISK_FULL", "the study cannot be written")
    assert patiently(failing(FULL, QUOTA, READ_ONLY, disk_full)) == "written"
    assert clock[0] == 1004.0


@pytest.mark.parametrize("error", [PermissionError(13, "no"), RunFailed("RUN_LOCKED", "no"), ValueError()])
def test_other_errors_are_raised_at_once(clock, error):
    with pytest.raises(type(error)):
        patiently(failing(error))
    assert clock[0] == 1000.0


def test_patience_has_an_end(clock):
    with pytest.raises(OSError, match="as the test wishes"):
        patiently(failing(*[FULL] * 1000))
    assert clock[0] - 1000 == PATIENCE_S
    with pytest.raises(OSError, match="as the test wishes"):
        patiently(failing(FULL), 0.0)
    assert clock[0] - 1000 == PATIENCE_S


def test_a_time_in_which_the_process_was_stopped_does_not_count(clock, monkeypatch):
    naps = iter([1.0, 600.0, 1.0])
    monkeypatch.setattr(full_disk.time, "sleep", lambda s: clock.__setitem__(0, clock[0] + next(naps)))
    assert patiently(failing(FULL, FULL, FULL)) == "written"


def test_a_line_is_seen_at_once(monkeypatch):
    log = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(log, write_through=False))
    with left_out("curves.png"):
        raise FULL
    assert b"curves.png" in log.getvalue()
    Tolerance("heartbeat", 120.0).failed(FULL)
    assert b"heartbeat" in log.getvalue()


def test_what_is_left_out_is_said(capsys):
    with left_out("curves.png"):
        raise FULL
    assert (
        capsys.readouterr().out == "curves.png not written ([Errno 28] as the test wishes); the run goes on\n"
    )
    with pytest.raises(FileNotFoundError), left_out("curves.png"):
        raise FileNotFoundError(2, "a defect")


class TestTolerance:
    SAID = "heartbeat not written ([Errno 122] as the test wishes); the run goes on\n"

    def test_what_fails_for_the_limit_ends_the_run(self, clock, capsys):
        beats = Tolerance("heartbeat", 120.0)
        for _ in range(120):
            beats.failed(QUOTA)
            clock[0] += 1
        assert capsys.readouterr().out == self.SAID
        with pytest.raises(RunFailed) as failure:
            beats.failed(READ_ONLY)
        said = "heartbeat cannot be written: [Errno 30] as the test wishes"
        assert (failure.value.reason, failure.value.detail) == ("STORAGE_ERROR", said)

    def test_once_it_worked_the_limit_begins_anew(self, clock, capsys):
        beats = Tolerance("heartbeat", 120.0)
        beats.failed(QUOTA)
        clock[0] += 120
        beats.worked()
        beats.failed(QUOTA)
        clock[0] += 119.5
        beats.failed(QUOTA)
        assert capsys.readouterr().out == 2 * self.SAID

    def test_an_error_that_is_not_about_storage_is_raised(self):
        with pytest.raises(FileNotFoundError):
            Tolerance("heartbeat", 120.0).failed(FileNotFoundError(2, "a defect"))
