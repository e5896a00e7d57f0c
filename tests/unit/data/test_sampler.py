"""The index arithmetic: nothing lost, nothing twice, whatever the number of ranks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.data import sampler
from hpctrain.errors import UserError


@settings(deadline=None)
@given(
    samples=st.integers(1, 500),
    batch=st.integers(1, 64),
    size=st.integers(1, 9),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 3),
)
def test_an_epoch_shows_each_sample_once(samples, batch, size, seed, epoch):
    order = sampler.epoch_order(samples, seed, epoch, shuffle=True)
    seen = []
    for step in range(sampler.steps_per_epoch(samples, batch)):
        shares = [sampler.share(order, step, batch, rank, size) for rank in range(size)]
        assert sum(len(s.indices) for s in shares) == shares[0].global_count
        seen += [index for s in shares for index in s.indices]
    assert sorted(seen) == list(range(samples))


@settings(deadline=None)
@given(
    samples=st.integers(1, 300), per_rank=st.integers(1, 9), parts=st.integers(1, 3), size=st.integers(1, 6)
)
def test_a_dropped_tail_and_the_smallest_part(samples, per_rank, parts, size):
    batch = per_rank * parts * size
    for drop in (False, True):
        if drop and samples < batch:
            with pytest.raises(
                UserError, match=r"data.drop_last=true: leaves nothing: the data have \d+ samples"
            ):
                sampler.steps_per_epoch(samples, batch, drop)
            continue
        steps = sampler.steps_per_epoch(samples, batch, drop)
        assert steps == (samples // batch if drop else -(-samples // batch))
        order = np.arange(samples)
        sizes = {
            place.stop - place.start
            for step in range(steps)
            for rank in range(size)
            for place in sampler.share(order, step, batch, rank, size).micro_batches(per_rank)
        }
        assert sampler.smallest_micro_batch(samples, batch, per_rank, size, drop) == min(sizes - {0})


@settings(deadline=None)
@given(samples=st.integers(1, 300), batch=st.integers(1, 40), size=st.integers(2, 6))
def test_the_global_batch_does_not_depend_on_the_ranks(samples, batch, size):
    order = sampler.epoch_order(samples, 1, 0, shuffle=True)
    for step in range(sampler.steps_per_epoch(samples, batch)):
        alone = sampler.share(order, step, batch, 0, 1).indices
        together = [sampler.share(order, step, batch, rank, size).indices for rank in range(size)]
        np.testing.assert_array_equal(np.concatenate(together), alone)


@settings(deadline=None)
@given(count=st.integers(0, 1000), size=st.integers(1, 20))
def test_parts_differ_by_one_at_most(count, size):
    sizes = [len(range(count)[sampler.part(count, rank, size)]) for rank in range(size)]
    assert sum(sizes) == count
    assert max(sizes) - min(sizes) <= 1


def test_epochs_are_shuffled_anew_and_repeat_for_equal_seeds():
    first, again = (sampler.epoch_order(100, 3, 0, shuffle=True) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (first != sampler.epoch_order(100, 3, 1, shuffle=True)).any()
    assert (first != sampler.epoch_order(100, 4, 0, shuffle=True)).any()


@settings(deadline=None)
@given(samples=st.integers(1, 300), batch=st.integers(1, 40), size=st.integers(1, 6))
def test_streams_are_contiguous_and_each_sample_is_seen_once(samples, batch, size):
    order = sampler.epoch_order(samples, 0, 7, shuffle=False, streams=batch)
    assert sorted(order) == list(range(samples))
    before = None
    for step in range(sampler.steps_per_epoch(samples, batch)):
        shares = [sampler.share(order, step, batch, rank, size) for rank in range(size)]
        now = [s.indices for s in shares]
        assert {s.fresh for s in shares} == {step == 0 or len(np.concatenate(now)) < batch}
        if not shares[0].fresh:
            for mine, last in zip(now, before, strict=True):
                np.testing.assert_array_equal(mine, last + 1)
        before = now


def test_one_stream_is_the_natural_order():
    np.testing.assert_array_equal(sampler.epoch_order(5, 0, 7, shuffle=False), np.arange(5))


def test_streams_go_side_by_side_and_what_is_left_comes_last():
    # 11 samples in 3 streams of 3: 0 1 2, 3 4 5, 6 7 8; one of each in turn, then 9 and 10.
    expected = [0, 3, 6, 1, 4, 7, 2, 5, 8, 9, 10]
    order = sampler.epoch_order(11, 0, 7, shuffle=False, streams=3)
    assert order.tolist() == sampler.stream_order(11, 3).tolist() == expected
    assert order.dtype == np.int64


def test_the_order_of_an_epoch_is_numpys_permutation():
    expected = np.random.default_rng([3, 5]).permutation(50)
    order = sampler.epoch_order(50, 3, 5, shuffle=True)
    np.testing.assert_array_equal(order, expected)
    assert order.dtype == np.int64


@pytest.mark.parametrize(("samples", "steps"), [(1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (21, 3)])
def test_the_tail_of_an_epoch_is_a_step(samples, steps):
    assert sampler.steps_per_epoch(samples, 10) == steps


def test_a_share_knows_its_batch():
    order = np.arange(100, 110)
    first, middle, tail = (sampler.share(order, step, 4, 1, 2) for step in range(3))
    assert [s.indices.tolist() for s in (first, middle, tail)] == [[102, 103], [106, 107], [109]]
    assert [(s.global_count, s.fresh, s.ranks) for s in (first, middle, tail)] == [
        (4, True, 2), (4, False, 2), (2, True, 2),
    ]  # fmt: skip


def test_the_shares_of_a_run_go_through_its_epochs():
    asked = []

    def order_of(epoch):
        asked.append(epoch)
        return np.arange(5) + 10 * epoch

    # Three steps of two samples an epoch; the run goes on at its second step and ends in its third epoch.
    found = list(sampler.shares(order_of, range(1, 7), 3, 2, 0, 1))
    assert [(epoch, s.indices.tolist()) for epoch, s in found] == [
        (0, [2, 3]), (0, [4]), (1, [10, 11]), (1, [12, 13]), (1, [14]), (2, [20, 21]),
    ]  # fmt: skip
    assert asked == [0, 1, 2]
    assert [s.fresh for _, s in found] == [False, True, True, False, True, True]
    assert [s.indices.tolist() for _, s in sampler.shares(order_of, range(3, 4), 3, 2, 0, 1)] == [[10, 11]]
    ((_, second),) = sampler.shares(order_of, range(1), 3, 2, 1, 2)
    assert (second.indices.tolist(), second.global_count, second.ranks) == ([1], 2, 2)


def lengths(share, batch_size):
    return [len(share.indices[place]) for place in share.micro_batches(batch_size)]


def test_parts_of_a_share_are_as_few_and_as_equal_as_can_be():
    assert lengths(sampler.Share(np.arange(7), 7), 3) == [2, 2, 3]
    assert lengths(sampler.Share(np.arange(6), 6), 3) == [3, 3]
    assert lengths(sampler.Share(np.arange(3), 3), 8) == [3]


def test_all_ranks_have_as_many_parts_while_none_is_empty():
    # 13 samples on 3 ranks: 4, 4 and 5. The largest needs two parts of at most 4, so all have two.
    shares = [sampler.share(np.arange(13), 0, 13, rank, 3) for rank in range(3)]
    assert [s.in_step(4) for s in shares] == [True] * 3
    assert [lengths(s, 4) for s in shares] == [[2, 2], [2, 2], [2, 3]]
    # 5 samples on 4 ranks: one rank has two of them, the others cannot have two parts of one.
    shares = [sampler.share(np.arange(5), 0, 5, rank, 4) for rank in range(4)]
    assert [s.in_step(1) for s in shares] == [False] * 4
    assert sorted(lengths(s, 1) for s in shares) == [[1], [1], [1], [1, 1]]
    # 6 samples on 3 ranks: as many parts as there are samples are still one for each.
    assert sampler.share(np.arange(6), 0, 6, 0, 3).in_step(1)
