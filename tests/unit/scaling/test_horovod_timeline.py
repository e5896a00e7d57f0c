"""Horovod's timeline: two buckets, fused in one step and apart in the other; the profile's sums after them."""

import json

import pytest

from hpctrain.scaling.horovod_timeline import events, summary

TENSORS = {1: "broadcast.weight", 2: "allreduce.bucket.0.0", 3: "allreduce.bucket.1.0"}


def span(pid, name, start, end):
    return [{"ph": "B", "name": name, "ts": start, "pid": pid}, {"ph": "E", "ts": end, "pid": pid}]


def message(pids, start):
    """600 µs, of which 500 are MPI's."""
    found = []
    for pid in pids:
        inner = span(pid, "MPI_ALLREDUCE", start + 50, start + 550)
        found += [
            *span(pid, "ALLREDUCE", start, start)[:1],
            *inner,
            {"ph": "E", "ts": start + 600, "pid": pid},
        ]
    return found


@pytest.fixture
def text():
    found = [
        {"name": "process_name", "ph": "M", "pid": pid, "args": {"name": n}} for pid, n in TENSORS.items()
    ]
    found += [{"ph": "i", "name": "CYCLE_START", "ts": t, "s": "g"} for t in (0, 500, 1000, 1700)]
    found += span(1, "ALLREDUCE", 0, 9000)
    found += [*span(2, "NEGOTIATE_ALLREDUCE", 10_000, 12_000), *message([2, 3], 12_000)]
    found += [*message([2], 20_000), *message([3], 21_000)]
    found += [*message([2], 30_000), *message([3], 31_000)]  # the profile's
    return json.dumps(found)


def test_what_a_step_is_made_of(text):
    found = summary(text, steps=2)
    assert found.buckets == 2
    assert found.messages_a_step == 1.5
    assert found.message_s == pytest.approx(0.9e-3)
    assert found.activities_s == {"MPI_ALLREDUCE": pytest.approx(0.75e-3)}
    assert found.waiting_s == pytest.approx(1e-3)
    assert found.cycle_s == pytest.approx(0.5e-3)
    assert found.line.startswith("2 buckets in 1.5 messages per step, 0.9 ms (MPI_ALLREDUCE 0.75)")


def test_a_killed_runs_timeline_ends_anywhere(text):
    whole = len(events(text))
    for cut in (1, 2, 5, 40, 120):
        assert whole - 4 <= len(events(text[:-cut])) <= whole
    assert events("") == events("[\n") == events("no timeline") == []


def test_nothing_was_summed(text):
    assert summary(text.replace("bucket", "other"), 2) is None
    assert summary("[]", 2) is None
