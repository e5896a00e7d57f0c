"""Processes that decode pictures into memory shared with this process. NumPy only, no torch.

Takes readers and tasks; a task's pixels are in its part of the buffer when its future is done. The processes start
with the first task, which takes a third of a second. They leave signals to the job (Ctrl-C, Slurm's) to their
parent, and end when it ends, however it dies. The memory has no name, so nothing is left behind.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpctrain.data.images.decode import Decoding, Key, Reader
from hpctrain.errors import RunFailed
from hpctrain.storage.run_state import Reason

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True)
class Task:
    """Decodes `keys` with reader number `reader` into buffer `slot`, from its byte `first` on.

    `draws`: for each key, the seed of its random crop; None: the centres. `size`: pixels per side; None: the full size.
    """

    reader: int
    slot: int
    first: int
    keys: Sequence[Key]
    draws: Sequence[tuple[int, ...]] | None
    size: int | None


@dataclass
class _Bench:
    """What a decoding process works with."""

    readers: Sequence[Reader]
    decodings: Sequence[Decoding]
    memory: Any
    slot_bytes: int

    def work(self, task: Task) -> None:
        reader, decoding, first = self.readers[task.reader], self.decodings[task.reader], task.first
        start = task.slot * self.slot_bytes
        slot = np.frombuffer(self.memory, np.uint8)[start : start + self.slot_bytes]
        for number, key in enumerate(task.keys):
            draw = task.draws[number] if task.draws is not None else None
            pixels = decoding.decode(*reader.read(key), draw, task.size).reshape(-1)
            slot[first : first + pixels.size] = pixels
            first += pixels.size


_bench: _Bench | None = None


class Decoders:
    """`workers` processes and `slots` buffers of `slot_bytes`; without workers, `submit` runs its task itself."""

    def __init__(
        self,
        readers: Sequence[Reader],
        decodings: Sequence[Decoding],
        slots: int,
        slot_bytes: int,
        workers: int,
    ) -> None:
        self.workers, self.pinned = workers, False
        self._slot_bytes = slot_bytes
        self._context = multiprocessing.get_context("spawn")  # MPI and CUDA do not survive a fork
        # A rank that fails ends at once. The process that clears up after it shall not have the log's last word.
        sys.warnoptions.append("ignore:resource_tracker:UserWarning")
        self._bench = _Bench(readers, decodings, self._context.RawArray("B", slots * slot_bytes), slot_bytes)
        self._pool: ProcessPoolExecutor | None = None

    def memory(self) -> NDArray[np.uint8]:
        """Returns all buffers, one after the other, as bytes (size,)."""
        return np.frombuffer(self._bench.memory, np.uint8)

    def buffer(self, slot: int) -> NDArray[np.uint8]:
        """Returns the shared memory of a slot, as bytes (size,)."""
        return self.memory()[slot * self._slot_bytes : (slot + 1) * self._slot_bytes]

    def submit(self, task: Task) -> Future[None]:
        """Starts a task in one of the processes; returns its future. Raises RunFailed("DATA_ERROR") if one died."""
        if self.workers == 0:
            done: Future[None] = Future()
            try:
                self._bench.work(task)
                done.set_result(None)
            except Exception as error:
                done.set_exception(error)
            return done
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.workers, self._context, _start, (self._bench,))
        # A process that starts now inherits the blocked signals, so that none ends it before it ignores them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            return self._pool.submit(_work, task)
        except BrokenProcessPool:
            raise _died() from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def wait(self, futures: Sequence[Future[None]]) -> None:
        """Waits until all are done. Raises the first task's error: UserError, RunFailed("DATA_ERROR")."""
        try:
            for future in futures:
                future.result()
        except BrokenProcessPool:
            raise _died() from None

    def close(self) -> None:
        """Ends the processes and frees the shared memory."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


def _died() -> RunFailed:
    return RunFailed(Reason.DATA_ERROR, "a process that decodes pictures has died: killed, or out of memory")


def _start(bench: _Bench) -> None:
    """Prepares a decoding process: it ignores signals and ends with its parent."""
    global _bench
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    _bench = bench
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(0)


def _work(task: Task) -> None:
    assert _bench is not None
    _bench.work(task)
