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


def test_events_end_where_the_text_is_torn():
    one, two = '{"a": 1}', '{"args": {"x": 2}}'
    both = [{"a": 1}, {"args": {"x": 2}}]
    for end in ("\n]\n", "]", ",\n", "\n", ",", "", ', {"b', ",\n{"):
        assert events(f"[\n{one},\n{two}{end}") == both
    # What a file system puts in the place of bytes that were never written.
    assert events(f"[\n{one},\n{two}\0\0\0") == both
    # The brace that is whole closes only the inner object.
    assert events(f"[\n{one},\n{two[:-1]}") == [{"a": 1}]
    assert events(f"[\n{one},\n{one},\n{two[:-1]}") == [{"a": 1}, {"a": 1}]


def named(pid, name):
    return {"name": "process_name", "ph": "M", "pid": pid, "args": {"name": name}}


def test_a_message_without_more_is_all_that_there_is():
    found = summary(json.dumps([named(1, "bucket.0"), *span(1, "ALLREDUCE", 100, 400)]), 9)
    assert (found.buckets, found.messages_a_step) == (1, 1)
    assert (found.message_s, found.waiting_s) == (pytest.approx(3e-4), 0.0)
    assert (found.activities_s, found.cycle_s) == ({}, None)
    assert found.line.startswith("1 bucket in 1 messages per step, 0.3 ms ()")
    assert "cycle" not in found.line


def test_what_takes_longest_comes_first():
    inner = [*span(1, "QUEUE", 0, 50), *span(1, "NCCL", 50, 250), *span(1, "MEMCPY", 250, 350)]
    outer = span(1, "ALLREDUCE", 0, 400)
    found = summary(json.dumps([named(1, "bucket.0"), outer[0], *inner, outer[1]]), 1)
    assert list(found.activities_s) == ["NCCL", "MEMCPY", "QUEUE"]
    assert "NCCL 0.2, MEMCPY 0.1, QUEUE 0.05" in found.line


def test_pieces_of_a_bucket_are_one_bucket_and_each_a_message():
    pieces = [named(1, "allreduce.bucket.0.0"), named(2, "allreduce.bucket.0.1"), named(3, "bucket.1.0")]
    messages = [*span(1, "ALLREDUCE", 0, 1), *span(2, "ALLREDUCE", 2, 3), *span(3, "ALLREDUCE", 4, 5)]
    found = summary(json.dumps([*pieces, *messages]), 1)
    assert (found.buckets, found.messages_a_step) == (2, 3)


def test_only_ends_of_what_has_begun_count():
    noise = [
        {"ph": "E", "ts": 1, "pid": 1},  # the file was begun in the middle of a message
        {"name": "process_name", "pid": 8},
        {"ph": "B", "name": "nobody's", "ts": 2},
    ]
    begin, end = span(1, "ALLREDUCE", 100, 400)
    mark = {"ph": "i", "name": "mark", "ts": 200, "pid": 1}
    found = summary(json.dumps([named(1, "bucket.0"), *noise, begin, mark, end]), 1)
    assert found.message_s == pytest.approx(3e-4)


def test_a_cycle_is_the_median_gap_of_two_starts_or_more():
    def with_cycles(*starts):
        cycles = [{"ph": "i", "name": "CYCLE_START", "ts": t} for t in starts]
        return summary(json.dumps([named(1, "bucket.0"), *cycles, *span(1, "ALLREDUCE", 0, 1)]), 1)

    assert with_cycles(100).cycle_s is None
    assert with_cycles(100, 2100, 3100, 9100).cycle_s == pytest.approx(2e-3)
    assert "2 ms" in with_cycles(100, 2100).line
