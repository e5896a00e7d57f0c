"""Pictures that other processes decode ahead of the step.

B samples, C channels, H and W pixels. The caller announces batches (`expect`); they are decoded, in order, into
a ring of buffers (pinned if there is a GPU) while the device computes. A batch that was not announced is decoded
on request. Random crops are drawn from seed, epoch and sample, so a run that resumes, on any number of ranks, sees
the same ones; everything after the decoding happens on the device (data/images/resident.py).
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpctrain.data.images.resident import Finish
from hpctrain.data.images.sets import Split
from hpctrain.data.images.workers import Decoders, Task
from hpctrain.data.sampler import Indices
from hpctrain.errors import RunFailed
from hpctrain.storage.run_state import Reason

CHUNK = 32  # most pictures per task, so that all processes share a batch


@dataclass(frozen=True)
class Wanted:
    """A batch to come: its samples, its epoch (for random crops), and its pixels per side (None: the full size)."""

    indices: Indices
    epoch: int = 0
    size: int | None = None


@dataclass
class _Coming:
    wanted: Wanted
    slot: int
    futures: list[Future[None]]
    counts: bool  # whether a wait for it means that the loader is too slow


class StreamedImages:
    """One split. It may use the buffers `slots` of `decoders`; `number` is the index of its reader there."""

    shuffle = True

    def __init__(
        self,
        split: Split,
        finish: Finish,
        decoders: Decoders,
        number: int,
        slots: Sequence[int],
        *,
        shape: tuple[int, int, int],
        seed: int | None = None,
    ) -> None:
        """With a `seed`, batches hold random crops of the pictures; without, their centres."""
        self._keys, self._reader, self._seed, self._shape = split.keys, number, seed, shape
        self._labels = torch.from_numpy(split.labels)
        self._finish, self._decoders = finish, decoders
        self._free, self._coming = deque(slots), deque[_Coming]()
        self._more: Iterator[tuple[Wanted, bool]] = iter(())
        self._in_use: tuple[int, Any] | None = None  # the slot of the last batch, and its copy's event
        self._device = torch.device("cpu")
        self._copies: torch.cuda.Stream | None = None
        self._size: int | None = None
        self.waited_s = 0.0

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def workers(self) -> int:
        """Returns the number of processes that decode."""
        return self._decoders.workers

    def to(self, device: torch.device) -> StreamedImages:
        """Puts later batches on `device`; returns the set."""
        self._device = device
        self._finish.to(device)
        if device.type == "cuda":
            self._copies = torch.cuda.Stream(device)
            _pin(self._decoders)
        return self

    def resize(self, pixels: int | None) -> None:
        """Makes later batches `pixels` high and wide; None: their full size."""
        self._size = pixels

    def expect(self, wanted: Iterable[Wanted]) -> None:
        """Announces the batches that will be requested, in this order; replaces those announced before."""
        self._forget()
        first = itertools.chain([False], itertools.repeat(True))  # the first cannot be ready in time
        self._more = zip(wanted, first, strict=False)
        self._fill()

    def batch(
        self, indices: NDArray[np.int64], generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns images (B, C, H, W) float32 and labels (B,) int64; augmented if `generator` is given."""
        self._release()
        start = time.perf_counter()
        coming = self._next(indices)
        self._fill()
        self._decoders.wait(coming.futures)
        if coming.counts:
            self.waited_s += time.perf_counter() - start
        images = self._upload(coming)
        labels = self._labels[torch.from_numpy(indices)].to(self._device)
        return self._finish(images, generator, self._size), labels

    def close(self) -> None:
        """Ends the processes. Batches can still be requested, which starts the processes again."""
        self._forget()
        self._decoders.close()

    def _next(self, indices: Indices) -> _Coming:
        """Returns the announced batch if it is this one, else a batch whose decoding starts now."""
        if self._coming:
            wanted = self._coming[0].wanted
            if np.array_equal(wanted.indices, indices) and wanted.size == self._size:
                return self._coming.popleft()
            self._forget()
        return self._begin(Wanted(indices, 0, self._size), counts=False)

    def _upload(self, coming: _Coming) -> Tensor:
        """Returns uint8 (B, C, H, W) on the device; the buffer is freed at the next batch."""
        c, h, w = self._pixels(coming.wanted)
        count = len(coming.wanted.indices)
        host = torch.from_numpy(self._decoders.buffer(coming.slot)[: count * c * h * w]).view(count, h, w, c)
        copied = None
        if self._copies is None:
            images = host.permute(0, 3, 1, 2).contiguous()
        else:
            with torch.cuda.stream(self._copies):
                images = host.to(self._device, non_blocking=True)
                copied = torch.cuda.Event()
                copied.record(self._copies)
            current = torch.cuda.current_stream(self._device)
            current.wait_event(copied)
            images.record_stream(current)
            images = images.permute(0, 3, 1, 2).contiguous()
        self._in_use = (coming.slot, copied)
        return images

    def _pixels(self, wanted: Wanted) -> tuple[int, int, int]:
        """Returns (C, H, W) as decoded: random crops have the wanted size; all else is resized on the device."""
        c, h, w = self._shape
        return (c, h, w) if self._seed is None or wanted.size is None else (c, wanted.size, wanted.size)

    def _release(self) -> None:
        if self._in_use is not None:
            slot, copied = self._in_use
            if copied is not None:
                copied.synchronize()  # started one step ago, so normally done
            self._free.append(slot)
            self._in_use = None

    def _fill(self) -> None:
        """Starts as many of the announced batches as there are free buffers."""
        while self._free:
            following = next(self._more, None)
            if following is None:
                return
            self._coming.append(self._begin(*following))

    def _begin(self, wanted: Wanted, counts: bool) -> _Coming:
        slot = self._free.popleft()
        each = int(np.prod(self._pixels(wanted)))
        size = None if self._seed is None else wanted.size
        count = len(wanted.indices)
        chunk = max(1, min(CHUNK, -(-count // max(1, 2 * self._decoders.workers))))
        futures = []
        for first in range(0, count, chunk):
            part = wanted.indices[first : first + chunk].tolist()
            draws = None if self._seed is None else [(self._seed, wanted.epoch, index) for index in part]
            keys = [self._keys[index] for index in part]
            futures.append(self._decoders.submit(Task(self._reader, slot, first * each, keys, draws, size)))
        return _Coming(wanted, slot, futures, counts)

    def _forget(self) -> None:
        self._more = iter(())
        for coming in self._coming:
            wait(coming.futures)  # they still write into its buffer
            self._free.append(coming.slot)
        self._coming.clear()


def _pin(decoders: Decoders) -> None:
    """Pins the buffers in memory, once: a GPU copies asynchronously from pinned memory only."""
    if decoders.pinned or decoders.workers == 0:
        return
    whole = decoders.memory()
    code = torch.cuda.cudart().cudaHostRegister(whole.ctypes.data, whole.nbytes, 0)
    if int(code) != 0:
        said = f"{whole.nbytes / 2**20:.0f} MiB cannot be pinned for the GPU (CUDA's error {int(code)})"
        raise RunFailed(Reason.DATA_ERROR, f"{said}: lower data.prefetch or train.batch_size")
    decoders.pinned = True


def decode_all(
    split: Split, shape: tuple[int, int, int], decoders: Decoders, number: int, slots: Sequence[int]
) -> NDArray[np.uint8]:
    """Returns every picture of a split, (N, C, H, W), decoded through the buffers `slots`. Raises UserError."""
    c, h, w = shape
    whole = np.empty((len(split.keys), h, w, c), np.uint8)
    each = decoders.buffer(slots[0]).size // (c * h * w)
    free, busy = deque(slots), deque[tuple[int, slice, list[Future[None]]]]()

    def fetch() -> None:
        slot, place, futures = busy.popleft()
        decoders.wait(futures)
        whole[place].reshape(-1)[:] = decoders.buffer(slot)[: whole[place].size]
        free.append(slot)

    for start in range(0, len(whole), each):
        if not free:
            fetch()
        place = slice(start, min(start + each, len(whole)))
        slot, futures = free.popleft(), []
        for first in range(place.start, place.stop, CHUNK):
            keys = split.keys[first : min(first + CHUNK, place.stop)]
            futures.append(decoders.submit(Task(number, slot, (first - start) * c * h * w, keys, None, None)))
        busy.append((slot, place, futures))
    while busy:
        fetch()
    return np.ascontiguousarray(whole.transpose(0, 3, 1, 2))
