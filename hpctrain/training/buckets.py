"""Which gradients travel together: pure arithmetic, for the exchange and for its model (scaling/network.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

SMALLEST_BYTES = 2**20

# Of a sum within a node, and what Horovod fuses of buckets. Open MPI allocates half of a sum's bytes for what it
# receives; above 32 MiB the C library gives that memory back to the system each time, and getting it again takes
# longer than the sum.
PIECE_BYTES = 16 * 2**20

Gradient = TypeVar("Gradient")


def group(
    gradients: Sequence[Gradient], size_of: Callable[[Gradient], float], limit_bytes: float
) -> list[list[Gradient]]:
    """The buckets of `gradients`, which are in the order in which they are ready; `size_of` gives bytes.

    A bucket has `limit_bytes` at most, and half of what is still to come: nothing is left of the backward pass to hide
    the last one's exchange behind, so it should be small. SMALLEST_BYTES may always share a bucket (less than that is
    latency alone), and a gradient may be larger than all that by itself.
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
