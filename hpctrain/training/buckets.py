"""Groups gradients into buckets, each of which is summed at once, for the exchange and its model (scaling/network.py).

Pure arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

SMALLEST_BYTES = 2**20

Gradient = TypeVar("Gradient")


def group(
    gradients: Sequence[Gradient], size_of: Callable[[Gradient], float], limit_bytes: float
) -> list[list[Gradient]]:
    """Returns the buckets of `gradients`, which are in the order in which they are ready; `size_of` returns bytes.

    A bucket has at most `limit_bytes`, and at most half of the bytes to come: no backward pass is left to hide the
    exchange of the last bucket, so it should be small. Gradients of SMALLEST_BYTES together may always share a bucket,
    because the time of a smaller one is only latency. A single gradient may be larger than all these limits.
    """
    buckets: list[list[Gradient]] = []
    used = limit = 0.0
    left = sum(map(size_of, gradients))
    for gradient in gradients:
        size = size_of(gradient)
        if buckets and used + size <= limit:
            buckets[-1].append(gradient)
            used += size
        else:
            buckets.append([gradient])
            used, limit = size, min(limit_bytes, max(SMALLEST_BYTES, left / 2))
        left -= size
    return buckets
