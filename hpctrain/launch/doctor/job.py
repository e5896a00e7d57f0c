"""`python -m hpctrain.launch.doctor.job FOLDER`: one rank of the doctor's job, on a node of the cluster.

Takes a folder on shared storage; writes there what this rank saw, as rank_<r>.json. Each rank first checks that it sees
what the others write to the folder; then the ranks add up a tensor on their devices with Horovod.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import NotRequired

from typing_extensions import TypedDict

from hpctrain import job_environment
from hpctrain.storage.json_files import replace_text


class Reduced(TypedDict, total=False):
    """What one rank saw of an allreduce: the sum over the ranks, its time, and what it ran on."""

    sum: float
    allreduce_ms: float
    device: str
    visible_gpus: str
    transport: str
    built: list[str]
    torch: str


class Seen(Reduced):
    """rank_<r>.json: what one rank of the doctor's job saw. With an `error`, the figures after it are missing."""

    rank: int
    host: str
    python: str
    storage: NotRequired[str]
    error: NotRequired[str]


PATIENCE_S = 30.0  # file systems show another node's file with a delay


def main() -> int:
    """Examines the node from one rank and writes what it saw; returns the exit code."""
    folder, rank, ranks = Path(sys.argv[1]), job_environment.read().rank, int(sys.argv[2])
    facts: dict[str, object] = {"rank": rank, "host": socket.gethostname(), "python": sys.version.split()[0]}
    try:
        facts["storage"] = storage(folder, rank, ranks)
        facts |= allreduce(ranks)
    except BaseException as error:
        facts["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:400]
    replace_text(folder / f"rank_{rank}.json", json.dumps(facts))
    os._exit(1 if "error" in facts else 0)


def storage(folder: Path, rank: int, ranks: int) -> str:
    """Writes, flushes, renames, links and locks, and looks for the others' files; returns "ok" or what failed."""
    replace_text(folder / f"hello_{rank}", str(rank))  # writes, flushes, renames
    for other in range(ranks):
        end_s = time.monotonic() + PATIENCE_S
        while not (folder / f"hello_{other}").exists():
            if time.monotonic() > end_s:
                return f"rank {rank} does not see what rank {other} wrote {PATIENCE_S:g} s ago"
            list(folder.iterdir())  # NFS asks the server again
            time.sleep(0.2)
    with contextlib.suppress(FileExistsError):
        os.link(folder / f"hello_{rank}", folder / "first")
    if (folder / "first").stat().st_nlink != 2:
        return "link() does not tell who was first"
    with (folder / f"hello_{rank}").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return f"flock() fails: {error.strerror}"
    return "ok"


def allreduce(ranks: int) -> Reduced:
    """Returns the sum of a tensor over the ranks, made by Horovod as in training, and what Horovod was built with."""
    import torch

    from hpctrain.config.settings import CommConfig
    from hpctrain.training.comm import bind_device, connect

    def stuck(detail: str) -> None:
        print(detail, file=sys.stderr, flush=True)
        os._exit(1)

    comm = connect(CommConfig(timeout_s=60.0), ranks, stuck)
    device = bind_device("auto", comm.local_rank)
    for name in ("warm", "timed"):
        tensor = torch.full((1_000_000,), float(comm.rank + 1), device=device)
        began_s = time.perf_counter()
        total = float(comm.sum(tensor, f"doctor.{name}")[0])
    facts: Reduced = {
        "sum": total,
        "allreduce_ms": 1e3 * (time.perf_counter() - began_s),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "visible_gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        "transport": comm.transport,
        "built": comm.built_with(),
        "torch": torch.__version__,
    }
    comm.shutdown()
    return facts


if __name__ == "__main__":
    sys.exit(main())
