"""Sums over two ranks, 1 KiB to 256 MiB: hpctrain's (Horovod) beside MPI in place, torch's gloo and a plain copy.

    python tests/benchmarks/allreduce_vs_peers.py [--json FILE]

All four in the same two processes, in turns: for each size REPEATS rounds of one sum each. A round's time is the
slower rank's. Prints medians, and hpctrain's share of the speed of the best of the other sums. Asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import ranks_vs_peers

SIZES = [1024 * 4**k for k in range(10)]
REPEATS = 15
KINDS = ("hpctrain", "mpi", "gloo", "memcpy")


def worker():
    """One rank; rank 0 prints all rounds."""
    import torch
    import torch.distributed as dist

    from hpctrain.config.settings import CommConfig
    from hpctrain.training.comm import connect
    from hpctrain.training.session import share_cores

    comm = connect(CommConfig(transport="mpi"), 2, sys.exit)
    torch.set_num_threads(share_cores(comm))
    from mpi4py import MPI

    world = MPI.COMM_WORLD.Dup()
    os.environ |= {"RANK": str(comm.rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    dist.init_process_group("gloo")
    found = {}
    for size in SIZES:
        tensor, other = torch.zeros(size // 4), torch.zeros(size // 4)
        flat = tensor.numpy()
        sums = {
            "hpctrain": lambda t=tensor, n=size: comm.sum(t, f"sum.{n}"),
            "mpi": lambda f=flat: world.Allreduce(MPI.IN_PLACE, f),
            "gloo": lambda t=tensor: dist.all_reduce(t),
            "memcpy": lambda t=tensor, o=other: o.copy_(t),
        }
        taken = {kind: [] for kind in KINDS}
        for _ in range(REPEATS + 2):
            for kind in KINDS:
                world.Barrier()
                start = time.perf_counter()
                sums[kind]()
                taken[kind].append(max(world.allgather(time.perf_counter() - start)))
        found[size] = {kind: each[2:] for kind, each in taken.items()}
    if comm.rank == 0:
        print(json.dumps(found), flush=True)
    world.Barrier()
    os._exit(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="write the raw figures here")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker()
    found = ranks_vs_peers.launch(2, __file__, "--worker")
    print("seconds of one sum over 2 ranks (median), and the share of the best other sum's speed")
    print(f"{'bytes':>12}" + "".join(f"{kind:>12}" for kind in KINDS) + f"{'share':>8}")
    for size, taken in found.items():
        medians = {kind: statistics.median(each) for kind, each in taken.items()}
        best = min(medians["mpi"], medians["gloo"])
        row = "".join(f"{medians[kind]:12.6f}" for kind in KINDS)
        print(f"{int(size):12,}{row}{best / medians['hpctrain']:8.2f}")
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
