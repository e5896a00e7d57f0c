"""The peaks of this machine, measured by all ranks of a run at once: matrix products, copies, sums over ranks.

Takes a `Comm` and a device; returns plain values in seconds, bytes, and operations per second. Collective. Ranks that
share a machine measure together, as they train together: the share of a rank in the memory's bandwidth is what it gets
while its neighbours take theirs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from hpctrain import hardware
from hpctrain.storage.profile import Ceilings, Sum
from hpctrain.training.comm import Comm

SWEEP_BYTES = tuple(1024 * 4**k for k in range(10))  # 1 KiB to 256 MiB
SWEEP_S = 1.5  # one size takes at most this long
PEAK_S = 0.3  # per number format, and for copies
COPIED = 2**24  # float32 elements: 64 MiB, beyond the caches


def ceilings(comm: Comm, device: torch.device) -> Ceilings:
    """Returns the peaks, the same on every rank. Collective."""
    comm.barrier()
    width, copied = (None, None) if device.type == "cuda" else (1024, COPIED)
    own = hardware.measure(PEAK_S, width=width, copied=copied)
    return {
        "device": own.name,
        "threads": torch.get_num_threads(),
        "flops_per_s": comm.gather_objects(dict(own.flops)),
        "bytes_per_s": comm.gather_objects(own.bytes_per_s),
        "sums": sums(comm, device, SWEEP_BYTES),
    }


def sums(comm: Comm, device: torch.device, sizes: Sequence[int]) -> list[Sum]:
    """Returns the seconds of one allreduce, by size in bytes, on the slowest rank, for which the others wait.

    Stops before a size for which one sum would take longer than SWEEP_S.
    """
    if comm.size == 1:
        return []
    measured: list[Sum] = []
    for size in sizes:
        if measured and min(measured[-1]["s"]) * size / measured[-1]["bytes"] > SWEEP_S:
            break
        tensor = torch.zeros(size // 4, device=device)
        taken: list[float] = []
        spent_s = 0.0
        while len(taken) < 4 or (spent_s < SWEEP_S and len(taken) < 30):
            comm.barrier()
            wait(device)
            start = time.perf_counter()
            comm.sum(tensor, f"sweep.{size}")
            wait(device)
            slowest_s = max(comm.gather_objects(time.perf_counter() - start))
            taken.append(slowest_s)
            spent_s += slowest_s
        measured.append({"bytes": size, "s": taken[1:]})
    return measured


def wait(device: torch.device) -> None:
    """Wait until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
