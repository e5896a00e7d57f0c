"""Saving and restoring a training state: training waits for a copy in host memory, and a thread writes that to disk.

Takes `Snapshot`s (named tensors and JSON) and returns them; checkpoints/store.py has the files and the commit protocol,
storage/lock.py the right to write. Large states are divided: each rank writes a part, and rank 0 commits once all parts
are there. Writer threads of different ranks synchronise only through files, because collectives would interleave with
those of the training thread.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from hpctrain.checkpoints import store
from hpctrain.checkpoints.policy import Retention, young_daly_s
from hpctrain.checkpoints.store import CorruptCheckpoint, Entry, FileRecord, Unreadable
from hpctrain.checkpoints.tensor_file import HostBuffer, unpack
from hpctrain.config.settings import CheckpointConfig
from hpctrain.errors import RunFailed
from hpctrain.patience import Patience
from hpctrain.storage.files import (
    FILES,
    Files,
    refuse_if_shared,
    remove_tree,
    replace_file,
    seal,
    unseal,
    write_file,
)
from hpctrain.storage.full_disk import AGAIN_S, patiently
from hpctrain.storage.lock import Term
from hpctrain.storage.run_state import Reason, storage_failure

FIRST_SAVE_S = 60.0  # checkpoint.every=auto first saves after this time, to measure what a save costs
DIVIDE_BYTES = 256 * 2**20  # states from this size on are written by all ranks together
WHOLE_BYTES = 2**20  # smaller tensors all go to rank 0
PARTS_PATIENCE_S = 600.0  # how long rank 0 waits for the other ranks' parts
RETRY_S = 30.0  # a failed save is retried after this time at the latest; if it fails again, the run ends
READ_PATIENCE_S = (0.5, 2.0, 10.0, 0.0)  # pauses between attempts to read if the storage returns an error


@dataclass(frozen=True)
class Snapshot:
    """A training state: `tensors` by flat name, on any device; `meta` for JSON, with the keys of store.Meta."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]


class Checkpointer:
    """The saves of one attempt. Every rank has one; only rank 0 holds a term and commits. Times in seconds."""

    def __init__(
        self,
        folder: Path,
        settings: CheckpointConfig,
        attempt: int,
        mtbf_s: float,
        term: Term | None,
        rank: int = 0,
        size: int = 1,
        files: Files = FILES,
    ) -> None:
        """`mtbf_s`: the job's mean time between failures, for checkpoint.every=auto. `term`: None except on rank 0."""
        self._folder, self._settings, self._attempt, self._mtbf_s = folder, settings, attempt, mtbf_s
        self._term, self._rank, self._size, self._files = term, rank, size, files
        self._retention = Retention(folder, settings, files)
        self._buffer = HostBuffer()
        self._job: _Job | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._failures = self._saves = 0
        self._saved_at = self._began = self._failing_since = time.monotonic()
        self.committed_step: int | None = None  # of the newest checkpoint that rank 0 knows to be on disk
        self.stall_s = 0.0  # how long training waited for the last save
        self.write_s = 0.0  # how long the last write took, beside training

    def due(self, step: int, whole_epoch: bool) -> bool:
        """Returns whether the settings ask for a save at this step; the same on every rank."""
        every = self._settings.every
        return whole_epoch if every == "epoch" else every != "auto" and step % every == 0

    def overdue(self) -> bool:
        """Returns whether a save is due by the clock. Clocks differ between ranks: use the answer of rank 0 on all."""
        s, waited_s = self._settings, time.monotonic() - self._saved_at
        if self._failures and waited_s >= RETRY_S:
            return True
        if s.every == "auto":
            cost_s = self.stall_s + self.write_s
            if waited_s >= (young_daly_s(cost_s, self._mtbf_s) if cost_s else FIRST_SAVE_S):
                return True
        return s.every_min is not None and waited_s >= 60 * s.every_min

    def reserve(self, snapshot: Snapshot) -> None:
        """Allocate the host buffer for snapshots like this one, so that no save waits for it.

        Raises RunFailed for a tensor that safetensors cannot hold.
        """
        parts = self._divide(snapshot.tensors)
        if self._rank < len(parts):
            self._buffer.lay_out(parts[self._rank])

    def report(self) -> None:
        """Call at every step, to report a failed write early. Raises RunFailed as `wait` does."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def save(self, snapshot: Snapshot, metric: float | None = None) -> None:
        """Wait for the last write, copy the snapshot, and write it in the background.

        Every rank calls it at the same step with the same names and shapes. `metric`: smaller is better, and the best
        checkpoint is kept. After a failed write training goes on. Raises RunFailed as `wait` does.
        """
        began = time.monotonic()
        self.wait()
        self._began = time.monotonic()
        self._saves += 1
        parts = self._divide(snapshot.tensors)
        if self._rank < len(parts):
            self._buffer.fill(parts[self._rank])
            meta = snapshot.meta | {"metric": metric, "attempt": self._attempt}
            self._start(_Job(self._attempt, self._saves, self._rank, len(parts), meta))
            if not self._settings.asynchronous:
                self.wait()
        self._saved_at = time.monotonic()
        self.stall_s = self._saved_at - began

    def wait(self) -> None:
        """Wait until nothing is being written. Raises RunFailed if saves have failed for RETRY_S seconds."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        if error is None:
            self._failures = 0
            return
        if not isinstance(error, OSError):
            raise error  # a later attempt has taken over, or a defect: another try would fail as well
        self._failures += 1
        if self._failures == 1:
            self._failing_since = self._began
        elif time.monotonic() - self._failing_since >= RETRY_S:
            raise storage_failure(error, "checkpoints cannot be written")
        print(f"checkpoint not written ({error}); the run goes on", flush=True)

    def finish(self, gather: Callable[[bool], list[bool]] = lambda failed: [failed]) -> None:
        """Wait until the last save is on disk. Raises RunFailed if saves have failed for RETRY_S seconds.

        A failed save is tried again, by all ranks from the same buffers. `gather` collects one flag from each rank.
        """
        self.wait()
        while any(gather(self._failures > 0)):
            time.sleep(AGAIN_S)
            self._saves += 1  # the name may be taken already
            if self._job is not None:
                self._start(replace(self._job, save=self._saves))
            self.wait()

    def settle(self, patience_s: float = 30.0) -> None:
        """Wait at most `patience_s` seconds for a running write, when the run fails for another reason."""
        patience = Patience(patience_s)
        while self._thread is not None and self._thread.is_alive() and not patience.is_over():
            self._thread.join(0.1)

    def restore(self, saved_step: int = 0) -> Snapshot | None:
        """Returns the newest checkpoint that verifies, or None if there never was one. Broken ones are put aside.

        Raises RunFailed("NO_VALID_CHECKPOINT") if there were some and none is good: a run never silently starts from
        the beginning. `saved_step`: the last step saved according to other files of the run. From now on the saves of
        this attempt count, and later saves of earlier attempts do not. Rank 0 only.
        """
        assert self._term is not None
        refuse_if_shared(self._folder)
        refuse_if_shared(self._folder.parent)
        store.sweep(self._folder, self._files)
        snapshot, wrong = self._newest()
        if snapshot is None and (wrong or saved_step or store.had_some(self._folder)):
            gone = f"step {saved_step} was saved, but" if saved_step else "some were saved, but"
            what = (
                "; ".join(wrong)
                or f"{gone} no checkpoint is left in {self._folder}: put aside, removed or purged"
            )
            anew = f"to begin anew, give another run.name or remove {self._folder.parent}"
            raise RunFailed(Reason.NO_VALID_CHECKPOINT, f"{what}; {anew}")
        step = snapshot.meta["step"] if snapshot else 0
        patiently(functools.partial(self._term.begin, step))
        self.committed_step = step or None
        return snapshot

    def newest(self) -> Snapshot | None:
        """Returns the newest checkpoint that verifies, once nothing is being written. Rank 0 only."""
        self.wait()
        return self._newest()[0]

    def _newest(self) -> tuple[Snapshot | None, list[str]]:
        """Returns the newest good snapshot, and what is wrong with the newer ones, which are put aside."""
        wrong: list[str] = []
        for entry in reversed(store.entries(self._folder)):
            try:
                return read_patiently(self._folder, entry), wrong
            except CorruptCheckpoint as error:
                wrong.append(str(error))
                if not isinstance(error, Unreadable):
                    store.put_aside(self._folder, entry, self._files)
                print(f"checkpoint {error}: going back to the one before", flush=True)
        return None, wrong

    def _divide(self, tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        divided = self._size > 1 and sum(t.nbytes for t in tensors.values()) >= DIVIDE_BYTES
        return divide(tensors, self._size) if divided else [tensors]

    def _start(self, job: _Job) -> None:
        self._job = job
        self._thread = threading.Thread(target=self._write, args=(job,), name="checkpoint")
        self._thread.start()

    def _write(self, job: _Job) -> None:
        began = time.monotonic()
        draft = self._folder / f".draft.{job.name}"
        try:
            self._files.make_folder(draft)
            part = self._write_part(draft, job)
            if self._term is not None:
                parts = part | self._other_parts(draft, job)
                entry = Entry(job.meta["step"], self._term.number, job.save)
                store.publish(draft, entry, parts, job.meta, self._term)
                if not self._retention.is_good(entry):
                    raise OSError(errno.EIO, "it does not read back as it was written")
                self.committed_step = entry.step
                self._prune()
        except BaseException as error:
            self._error = error
            # Leave nothing on a full disk.
            with contextlib.suppress(OSError):
                remove_tree(draft / _part_name(job.rank, job.parts) if job.rank else draft, self._files)
            if job.rank > 0:  # so that rank 0 does not wait for this part
                trouble = {"errno": getattr(error, "errno", None) or errno.EIO, "error": str(error)}
                receipt = functools.partial(
                    replace_file, _receipt(draft, job.rank), seal(trouble), self._files
                )
                with contextlib.suppress(OSError):
                    patiently(receipt)
        self.write_s = time.monotonic() - began

    def _write_part(self, draft: Path, job: _Job) -> dict[str, FileRecord]:
        name = _part_name(job.rank, job.parts)
        data = [memoryview(self._buffer.header), *store.pieces(self._buffer.data)]
        part = FileRecord(*write_file(draft / name, data, self._files))
        if job.rank > 0:  # the receipt, beside the draft
            self._files.sync_folder(draft)
            replace_file(_receipt(draft, job.rank), seal(asdict(part)), self._files)
        return {name: part}

    def _other_parts(self, draft: Path, job: _Job) -> dict[str, FileRecord]:
        """Wait for the receipts of the other ranks. Returns their parts. Raises OSError naming a rank that failed."""
        parts: dict[str, FileRecord] = {}
        patience = Patience(PARTS_PATIENCE_S)
        for rank in range(1, job.parts):
            receipt = _receipt(draft, rank)
            while not receipt.exists():
                if patience.is_over():
                    raise TimeoutError(errno.ETIMEDOUT, f"rank {rank} did not write its part")
                time.sleep(0.02)
            content = unseal(receipt.read_bytes())
            self._files.remove(receipt)
            if "error" in content:
                raise OSError(content["errno"], f"rank {rank}: {content['error']}")
            parts[_part_name(rank, job.parts)] = FileRecord(**content)
        return parts

    def _prune(self) -> None:
        try:
            self._retention.prune()
        except OSError as error:
            print(f"old checkpoints not deleted: {error}", flush=True)


@dataclass(frozen=True)
class _Job:
    """What one of `parts` ranks writes for one save."""

    attempt: int
    save: int
    rank: int
    parts: int
    meta: dict[str, Any]

    @property
    def name(self) -> str:
        """The name of the draft, the same on all ranks."""
        return f"{self.attempt}-{self.save}"


def divide(tensors: Mapping[str, Tensor], size: int) -> list[dict[str, Tensor]]:
    """Returns the tensors (...,) divided into `size` sets of about equal bytes; the result is the same on all ranks."""
    parts: list[dict[str, Tensor]] = [{} for _ in range(size)]
    loads = [0] * size
    for name in sorted(tensors, key=lambda name: (-tensors[name].nbytes, name)):
        small = tensors[name].nbytes < WHOLE_BYTES
        rank = 0 if small else loads.index(min(loads))
        parts[rank][name] = tensors[name]
        loads[rank] += tensors[name].nbytes
    return parts


def read(folder: Path, entry: Entry) -> Snapshot:
    """Returns a committed checkpoint, verified. Raises CorruptCheckpoint, which names the file."""
    manifest = store.read_manifest(folder, entry)
    _, meta = store.read_document(folder, entry, manifest)
    tensors: dict[str, Tensor] = {}
    for name, record in sorted(manifest.files.items()):
        if name == "meta.json":
            continue
        try:
            part = unpack(store.read_file(folder, entry, name, record))
        except ValueError as error:
            raise CorruptCheckpoint(f"{entry.name}/{name}: {error}") from None
        if twice := part.keys() & tensors.keys():
            raise CorruptCheckpoint(f"{entry.name}/{name} holds {min(twice)} a second time")
        tensors |= part
    return Snapshot(tensors, meta)


def read_patiently(folder: Path, entry: Entry) -> Snapshot:
    """Like `read`, but tries again if the storage returns an error. Raises CorruptCheckpoint."""
    for pause_s in READ_PATIENCE_S:
        try:
            return read(folder, entry)
        except Unreadable as error:
            trouble = error
            time.sleep(pause_s)
    raise trouble


def _part_name(rank: int, parts: int) -> str:
    return f"tensors-{rank + 1:05d}-of-{parts:05d}.safetensors" if parts > 1 else "tensors.safetensors"


def _receipt(draft: Path, rank: int) -> Path:
    """Returns the path of the file in which a rank describes its part. It is beside the draft folder, not in it."""
    return draft.with_name(f"{draft.name}.{rank}.json")
