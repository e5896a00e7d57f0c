"""The index arithmetic: nothing lost, nothing twice, whatever the number of ranks."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.data import sampler


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


@given(samples=st.integers(1, 300), batch=st.integers(1, 40), size=st.integers(2, 6))
def test_the_global_batch_does_not_depend_on_the_ranks(samples, batch, size):
    order = sampler.epoch_order(samples, 1, 0, shuffle=True)
    for step in range(sampler.steps_per_epoch(samples, batch)):
        alone = sampler.share(order, step, batch, 0, 1).indices
        together = [sampler.share(order, step, batch, rank, size).indices for rank in range(size)]
        np.testing.assert_array_equal(np.concatenate(together), alone)


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
