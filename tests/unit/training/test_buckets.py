"""How gradients are divided into buckets."""

import random

import pytest

from hpctrain.training.buckets import SMALLEST_BYTES, group

MIB = 2**20


def buckets(sizes, limit):
    return group(sizes, lambda size: size, limit)


@pytest.mark.parametrize("seed", range(20))
def test_each_bucket_has_at_most_the_limit_and_half_of_what_is_left(seed):
    draw = random.Random(seed)
    sizes = [draw.choice([100, 4096, MIB // 3, MIB, 3 * MIB, 9 * MIB]) for _ in range(draw.randint(1, 80))]
    found = buckets(sizes, 8 * MIB)
    assert [size for bucket in found for size in bucket] == sizes
    for place, bucket in enumerate(found):
        left = sum(map(sum, found[place:]))
        assert len(bucket) == 1 or sum(bucket) <= min(8 * MIB, max(SMALLEST_BYTES, left / 2))


def test_the_last_bucket_is_small_where_the_last_gradients_are():
    """ResNet-18's: 45 MB, of which the last layers have the most."""
    sizes = [9 * MIB] * 3 + [4 * MIB] * 2 + [2 * MIB] * 4 + [MIB // 2] * 5 + [MIB // 8] * 5
    assert sum(buckets(sizes, 25 * MIB)[-1]) <= SMALLEST_BYTES
    assert buckets(sizes, 25 * MIB)[0] == [9 * MIB] * 2


def test_little_travels_together():
    assert buckets([1000] * 10, 25 * MIB) == [[1000] * 10]
    assert buckets([1000] * 10, 1) == [[1000]] * 10
    assert buckets([], 25 * MIB) == []


def test_a_bucket_that_is_full_to_the_byte_is_one():
    assert buckets([2 * MIB, 2 * MIB, 4 * MIB], 4 * MIB) == [[2 * MIB, 2 * MIB], [4 * MIB]]
