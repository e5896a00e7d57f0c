"""Which gradients travel together: pure arithmetic, for the exchange and for its model (studies/network.py)."""

from __future__ import annotations

from collections.abc import Sequence

SMALLEST_BYTES = 2**20


def group(sizes: Sequence[float], limit_bytes: float) -> list[int]:
    """How many gradients each bucket takes, of `sizes` in bytes, in the order in which they are ready.

    A bucket has `limit_bytes` at most, and half of what is still to come: nothing is left of the backward pass to hide
    the last one's exchange behind, so it should be small. SMALLEST_BYTES may always share a bucket (less than that is
    latency alone), and a gradient may be larger than all that by itself.
    """
    counts: list[int] = []
    used = limit = 0.0
    left = sum(sizes)
    for size in sizes:
        if counts and used + size <= limit:
            counts[-1] += 1
            used += size
        else:
            counts.append(1)
            used, limit = size, min(limit_bytes, max(SMALLEST_BYTES, left / 2))
        left -= size
    return counts
