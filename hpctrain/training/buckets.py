"""Which gradients travel together: pure arithmetic, for the exchange and for its model (scaling/network.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

SMALLEST_BYTES = 2**20

Gradient = TypeVar("Gradient")


def group(
    gradients: Sequence[Gradient], size_of: Callable[[Gradient], float], limit_bytes: float
) -> list[list[Gradient]]:
    """Returns the buckets of `gradients`, which are in the order in which they are ready; `size_of` returns bytes.

    A bucket has at most `limit_bytes`, and at most half of what is still to come: no backward pass is left to hide the
    exchange of the last bucket, so it should be small. SMALLEST_BYTES may always share a bucket, because less than that
    is only latency. A single gradient may be larger than all these limits.
    """
    found: list[list[Gradient]] = []
    used = limit = 0.0
    left = sum(map(size_of, gradients))
    for gradient in gradients:
        size = size_of(gradient)
        if found and used + size <= limit:
            found[-1].append(gradient)
            used += size
        else:
            found.append([gradient])
            used, limit = size, min(limit_bytes, max(SMALLEST_BYTES, left / 2))
        left -= size
    return found
