"""Communication between ranks. The only file that imports Horovod and mpi4py.

Takes the comm settings and the number of ranks that the job was started with; returns a `Comm`: rank and size, sums of
tensors, and collectives of Python objects on the host. One rank does not need Horovod at all. Side effects:
environment variables that Horovod reads at its start, and its background thread.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpctrain.config.settings import PIECE_BYTES, CommConfig
from hpctrain.errors import RunFailed
from hpctrain.patience import Patience
from hpctrain.storage.run_state import Reason

# If a collective fails because a rank has died, the launcher ends the other ranks within this time, and can say which.
LAUNCHER_S = 3.0

# Longer than most steps: Horovod's thread sleeps between two exchanges.
IDLE_MS = 20.0

# Gloo's own limit for one message (its default is 30 s) must never come before comm.timeout_s.
GLOO_TIMEOUT_S = 10_000_000

Stuck = Callable[[str], None]


class Comm:
    """One process: every collective is the identity. Base class of the real one."""

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1
    transport = "none"

    def start_sum(self, tensor: Tensor, name: str) -> Any:
        """Begin to sum `tensor` (...,) over all ranks, in place. Returns a handle for `finish_sum`.

        `name` is the same on all ranks.
        """
        del tensor, name

    def start_adasum(self, tensor: Tensor, name: str) -> Any:
        """Like `start_sum` for `tensor` (...,), with Adasum instead of the sum (Maleki 2020, arXiv:2006.02924)."""
        del tensor, name

    def finish_sum(self, handle: Any) -> None:
        """Wait until the tensor of `start_sum` holds the sum. Raises RunFailed if the collective fails."""
        del handle

    def sum(self, tensor: Tensor, name: str) -> Tensor:
        """Sum `tensor` (...,) over all ranks, in place, and return it."""
        self.finish_sum(self.start_sum(tensor, name))
        return tensor

    def sum_in_group(self, tensor: Tensor, name: str) -> None:
        """Sum `tensor` (...,) in place, over comm.batch_norm_ranks neighbours, this rank included; waits."""
        del tensor, name

    def wait_for(self, collective: Callable[[], Any]) -> None:
        """Run a collective of Horovod itself. Raises RunFailed if it fails."""
        collective()

    def distributed_optimizer(self, optimizer: Any, named_parameters: Any) -> Any:
        """Returns Horovod's own wrapper of `optimizer`. It sums: our losses are divided by the global batch already."""
        del named_parameters
        return optimizer

    def broadcast(self, tensors: dict[str, Tensor]) -> None:
        """Copy the tensors (...,) of rank 0 into those of every rank, in place."""
        del tensors

    def broadcast_object(self, value: Any) -> Any:
        """Returns the value of rank 0 on every rank."""
        return value

    def gather_objects(self, value: Any) -> list[Any]:
        """Returns the values of all ranks, in order of rank, on every rank."""
        return [value]

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        self.gather_objects(None)

    def built_with(self) -> list[str]:
        """Returns those of mpi, gloo and nccl that this Horovod can use."""
        return []

    def shutdown(self) -> None:
        """Leave the group. Collective."""


class HorovodComm(Comm):
    """Horovod for tensors; MPI (mpi4py) for objects, or Horovod's own object calls over Gloo."""

    def __init__(self, settings: CommConfig, ranks: int, stuck: Stuck, timeline: Path | None = None) -> None:
        _set_environment(settings)
        if timeline is not None:
            os.environ |= {"HOROVOD_TIMELINE": str(timeline), "HOROVOD_TIMELINE_MARK_CYCLES": "1"}
        self._watch = Watchdog(settings.timeout_s, stuck)
        self._hvd = hvd = _import_horovod(ranks)
        width = ranks if settings.batch_norm_ranks == "all" else settings.batch_norm_ranks
        groups = [list(range(first, first + width)) for first in range(0, ranks, width)]
        # A set of one rank does not need Horovod, and the set of all ranks exists already.
        sets = [hvd.ProcessSet(group) for group in groups] if 1 < width < ranks else []
        with self._watch:
            hvd.init(process_sets=sets)
        if hvd.size() != ranks:
            raise RunFailed(
                Reason.ERROR,
                f"{ranks} ranks were started, but Horovod sees {hvd.size()}: the launcher and the MPI that "
                "Horovod was built with do not fit (compare `srun --mpi=list` with cluster.mpi)",
            )
        self.rank, self.size = hvd.rank(), hvd.size()
        self._group = sets[self.rank // width] if sets else hvd.global_process_set
        self.local_rank, self.local_size = hvd.local_rank(), hvd.local_size()
        self.transport = "mpi" if hvd.mpi_enabled() else "gloo"
        self._mpi = _mpi_world() if self.transport == "mpi" else None
        # Larger messages are better between nodes: computing takes the core between any two messages.
        self._in_pieces = self.transport == "mpi" and self.local_size == self.size

    def start_sum(self, tensor: Tensor, name: str) -> Any:
        """Begin to sum `tensor` (...,) in place; within a node in pieces. Returns a handle for `finish_sum`."""
        whole = tensor.is_cuda or not self._in_pieces
        size = max(1, tensor.numel()) if whole else PIECE_BYTES // tensor.element_size()
        with self._named_failures():
            return [
                self._hvd.allreduce_async_(piece, name=f"{name}.{i}", op=self._hvd.Sum)
                for i, piece in enumerate(tensor.view(-1).split(size))
            ]

    def start_adasum(self, tensor: Tensor, name: str) -> Any:
        """Begin the Adasum of `tensor` (...,) in place. Returns a handle for `finish_sum`."""
        with self._named_failures():
            return [self._hvd.allreduce_async_(tensor, name=name, op=self._hvd.Adasum)]

    def sum_in_group(self, tensor: Tensor, name: str) -> None:
        """Sum `tensor` (...,) in place, over the process set of this rank; waits. Raises RunFailed."""
        hvd, group = self._hvd, self._group
        self.wait_for(
            lambda: hvd.synchronize(hvd.allreduce_async_(tensor, name=name, op=hvd.Sum, process_set=group))
        )

    def finish_sum(self, handle: Any) -> None:
        """Wait for all pieces of a sum. Raises RunFailed if the collective fails."""
        self.wait_for(lambda: [self._hvd.synchronize(each) for each in handle])

    def wait_for(self, collective: Callable[[], Any]) -> None:
        """Run a collective under the watchdog. Raises RunFailed if it fails."""
        with self._named_failures(), self._watch:
            collective()

    @contextlib.contextmanager
    def _named_failures(self) -> Iterator[None]:
        try:
            yield
        except self._hvd.HorovodInternalError as error:
            time.sleep(LAUNCHER_S)
            raise RunFailed(Reason.COLLECTIVE_TIMEOUT, f"allreduce failed: {error}") from None

    def broadcast(self, tensors: dict[str, Tensor]) -> None:
        """Copy the tensors (...,) of rank 0, in any layout, into those of every rank, in place."""
        # Horovod takes only contiguous tensors, and those in channels_last order are not contiguous.
        dense = {name: tensor.contiguous() for name, tensor in tensors.items()}
        with self._watch:
            self._hvd.broadcast_parameters(dense, root_rank=0)
        for name, tensor in tensors.items():
            if dense[name] is not tensor:
                tensor.copy_(dense[name])

    def broadcast_object(self, value: Any) -> Any:
        """Returns the value of rank 0 on every rank."""
        with self._watch:
            if self._mpi is not None:
                return self._mpi.bcast(value, root=0)
            # Without a name Horovod uses that of the value's type, which differs between ranks.
            return self._hvd.broadcast_object(value, root_rank=0, name="object")

    def gather_objects(self, value: Any) -> list[Any]:
        """Returns the values of all ranks, in order of rank, on every rank."""
        with self._watch:
            if self._mpi is not None:
                return list(self._mpi.allgather(value))
            return list(self._hvd.allgather_object(value, name="objects"))

    def distributed_optimizer(self, optimizer: Any, named_parameters: Any) -> Any:
        """Returns Horovod's own wrapper of `optimizer`, with the state of the optimiser."""
        wrapped = self._hvd.DistributedOptimizer(optimizer, named_parameters, op=self._hvd.Sum)
        wrapped.state.update(optimizer.state)  # Horovod's copy of the optimiser does not have it
        return wrapped

    def built_with(self) -> list[str]:
        """Returns those of mpi, gloo and nccl that this Horovod can use."""
        return [name for name in ("mpi", "gloo", "nccl") if getattr(self._hvd, f"{name}_built")()]

    def shutdown(self) -> None:
        """Leave the group when every rank has called this. Collective."""
        # The call of one rank ends MPI on all of them at once, so no rank may still be in a call of ours to MPI.
        self.sum(torch.zeros(1), "shutdown")
        with self._watch:
            self._hvd.shutdown()


class Watchdog:
    """`with watchdog:` around a collective that waits for other ranks; calls `stuck` if it takes too long.

    Horovod's own stall check runs on rank 0 and itself waits for every rank: a rank that is stopped, or whose node
    hangs, would keep all others waiting for ever. It also counts the time for which the scheduler suspends all ranks,
    which this one leaves out. `stuck` is called in a thread of its own and must end the process, because the main
    thread cannot be woken.
    """

    def __init__(self, timeout_s: float, stuck: Stuck) -> None:
        self._timeout_s, self._tick_s, self._stuck = timeout_s, min(1.0, timeout_s / 10), stuck
        self._patience: Patience | None = None
        threading.Thread(target=self._look, name="watchdog", daemon=True).start()

    def __enter__(self) -> None:
        self._patience = Patience(self._timeout_s, self._tick_s)

    def __exit__(self, *_: object) -> None:
        self._patience = None

    def _look(self) -> None:
        while (patience := self._patience) is None or not patience.is_over():
            time.sleep(self._tick_s)
        self._stuck(f"no answer from the other ranks in {self._timeout_s:g} s (comm.timeout_s)")


def connect(settings: CommConfig, ranks: int, stuck: Stuck, timeline: Path | None = None) -> Comm:
    """Join the group of `ranks` ranks that the launcher started. Returns this rank's `Comm`. Collective.

    `stuck` is called with a message if the other ranks do not answer for comm.timeout_s seconds. `timeline`: the file
    in which Horovod's first rank records what it does when. Raises RunFailed if Horovod is missing, or sees another
    number of ranks.
    """
    return Comm() if ranks == 1 else HorovodComm(settings, ranks, stuck, timeline)


def bind_device(device: str, local_rank: int) -> torch.device:
    """Returns the device of this rank: the GPU of its local rank, or the CPU. `auto` takes a GPU if there is one.

    Raises RunFailed if a GPU is asked for and there is none.
    """
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RunFailed(Reason.ERROR, "resources.device=cuda, but torch sees no GPU on this node")
    # Slurm may show each task only its own GPU (--gpus-per-task), which is then number 0.
    index = local_rank % torch.cuda.device_count()
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _set_environment(settings: CommConfig) -> None:
    """Set Horovod's environment variables before its init; a value that the user has exported stays."""
    cycle = settings.cycle_time_ms if settings.cycle_time_ms is not None else default_cycle_time_ms()
    variables = {
        "HOROVOD_CYCLE_TIME": str(cycle),
        "HOROVOD_FUSION_THRESHOLD": str(round(settings.fusion_bytes)),
        # Horovod says which rank is late, but only the watchdog ends a run: Horovod and Gloo count by the clock alone,
        # and would end one that was suspended as soon as it is resumed.
        "HOROVOD_STALL_CHECK_TIME_SECONDS": str(max(1, round(settings.timeout_s / 2))),
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "0",
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(GLOO_TIMEOUT_S),
        # An idle MPI progress loop leaves its core to the computing instead of spinning on it.
        "OMPI_MCA_mpi_yield_when_idle": "1",
    }
    # Horovod polls all process sets in one loop; sleeping for an idle set would delay a busy one.
    if settings.exchange == "buckets" and settings.batch_norm_ranks in (1, "all"):
        # The Horovod that slurm/build_horovod builds knows this variable: a bucket wakes its thread.
        variables["HOROVOD_IDLE_TIME"] = str(IDLE_MS)
    if settings.transport != "auto":
        variables["HOROVOD_CONTROLLER"] = variables["HOROVOD_CPU_OPERATIONS"] = settings.transport
    if settings.hierarchical:
        variables["HOROVOD_HIERARCHICAL_ALLREDUCE"] = "1"
    for key, value in variables.items():
        os.environ.setdefault(key, value)


def default_cycle_time_ms() -> float:
    """Returns the interval in which Horovod's background thread asks whether the other ranks have come as far.

    The buckets are few and large, so it pays to ask at once; the thread sleeps in between.
    """
    return 0.5


def _import_horovod(ranks: int) -> Any:
    try:
        import horovod.torch as hvd
    except ImportError as error:
        raise RunFailed(
            Reason.IMPORT_ERROR, f"{ranks} ranks need Horovod ({error}); run slurm/build_horovod, or one rank"
        ) from None
    return hvd


def _mpi_world() -> Any:
    """Returns a communicator of our own on the MPI that Horovod has started, or None if mpi4py is missing."""
    try:
        import mpi4py
    except ImportError:
        return None
    mpi4py.rc.initialize = False
    mpi4py.rc.finalize = False
    from mpi4py import MPI

    return MPI.COMM_WORLD.Dup()
