"""Checkpoints: committed whole or not at all, verified before use, written while training goes on.

Takes `Snapshot`s (named tensors and JSON), keeps them below runs/.../checkpoints/:

    step_<n>.a<attempt>/   tensors.safetensors, meta.json, manifest.json (size and SHA-256 of each file)
    lineage.json           at which step each attempt began: the fence against zombies
    latest                 a hint for people; nothing reads it

Commit: a draft folder on the same file system; files written and fsynced, the folder fsynced; one rename
to its final name; the parent fsynced. A crash before the rename leaves a draft that no reader looks at.
An attempt that lost its run without knowing (a zombie) commits under its own attempt number; a reader
drops what an attempt committed beyond the step at which a later one began. No pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from hpctrain.config import CheckpointConfig
from hpctrain.errors import RunFailed
from hpctrain.run_dir import read_json, replace_text
from hpctrain.training.interval import young_daly_s

_NAME = re.compile(r"step_(\d{9})\.a(\d+)")
FIRST_SAVE_S = 60.0  # checkpoint.every=auto has to see one save before it knows what one costs
FILES = ("tensors.safetensors", "meta.json")


@dataclass(frozen=True)
class Snapshot:
    """A training state: `tensors` by flat name, `meta` JSON-able."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A committed checkpoint folder."""

    path: Path
    step: int
    attempt: int


class Checkpointer:
    """One writer: rank 0 of one attempt. All times in seconds."""

    def __init__(self, folder: Path, settings: CheckpointConfig, attempt: int, mtbf_s: float) -> None:
        """`mtbf_s`: the job's mean time between failures, for checkpoint.every=auto."""
        self._folder, self._settings, self._attempt = folder, settings, attempt
        self._mtbf_s = mtbf_s
        self._buffers: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._failures = 0
        self._saved_at = time.monotonic()
        self.write_s = 0.0  # the last write's duration
        self.stall_s = 0.0  # what the last save kept training waiting

    def due(self, step: int, whole_epoch: bool) -> bool:
        """Whether the settings ask for a save at this step; the same on every rank."""
        every = self._settings.every
        return whole_epoch if every == "epoch" else every != "auto" and step % every == 0

    def overdue(self) -> bool:
        """Whether the clock asks for one. Differs between ranks: ask on rank 0 and tell the others."""
        s, waited_s = self._settings, time.monotonic() - self._saved_at
        if s.every == "auto":
            cost_s = self.stall_s + self.write_s
            if waited_s >= (young_daly_s(cost_s, self._mtbf_s) if cost_s else FIRST_SAVE_S):
                return True
        return s.every_min is not None and waited_s >= 60 * s.every_min

    def save(self, snapshot: Snapshot, metric: float | None = None) -> None:
        """Copy the snapshot, then write it in the background; the last write is waited for first.

        `metric`: smaller is better; the best one is kept. A failed write is printed and tried again at
        the next save; the second failure in a row raises RunFailed.
        """
        began = time.monotonic()
        self.wait()
        tensors = {name: self._copy(name, tensor) for name, tensor in snapshot.tensors.items()}
        meta = snapshot.meta | {"metric": metric, "attempt": self._attempt}
        self._thread = threading.Thread(target=self._write, args=(tensors, meta), name="checkpoint")
        self._thread.start()
        if not self._settings.asynchronous:
            self.wait()
        self._saved_at = time.monotonic()
        self.stall_s = self._saved_at - began

    def wait(self) -> None:
        """Until nothing is being written. Raises RunFailed at the second failure in a row."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is None:
            self._failures = 0
            return
        error, self._error = self._error, None
        self._failures += 1
        print(f"checkpoint not written ({error}); the run goes on", flush=True)
        if self._failures >= 2:
            reason = "DISK_FULL" if getattr(error, "errno", None) in (28, 122) else "STORAGE_ERROR"
            raise RunFailed(reason, f"two checkpoints in a row could not be written: {error}")

    def finish(self) -> None:
        """The last write stands on disk, or raises."""
        self.wait()
        if self._failures:
            raise RunFailed("STORAGE_ERROR", "the last checkpoint could not be written")

    def restore(self) -> Snapshot | None:
        """The newest checkpoint that verifies; broken ones are moved aside and named. None: there is none.

        Raises RunFailed("NO_VALID_CHECKPOINT") where there are some and none is good: a run never starts
        from the beginning in silence.
        """
        make_folder(self._folder)
        broken = []
        snapshot = None
        for entry in reversed(entries(self._folder)):
            try:
                snapshot = read(entry.path)
                break
            except CorruptCheckpoint as error:
                print(f"checkpoint {entry.path.name} is broken: {error}", flush=True)
                entry.path.rename(self._folder / f"broken.{entry.path.name}.{os.getpid()}")
                broken.append(str(error))
        if snapshot is None and broken:
            raise RunFailed("NO_VALID_CHECKPOINT", "; ".join(broken))
        self._begin_lineage(snapshot.meta["step"] if snapshot else 0)
        return snapshot

    def _begin_lineage(self, step: int) -> None:
        path = self._folder / "lineage.json"
        begun = read_json(path) or {}
        replace_text(path, json.dumps(begun | {str(self._attempt): step}))
        for draft in self._folder.glob(".draft.*"):
            shutil.rmtree(draft, ignore_errors=True)

    def _copy(self, name: str, tensor: Tensor) -> Tensor:
        """Into a host buffer that is used again at the next save."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._buffers[name] = buffer
        return buffer.copy_(tensor.detach())

    def _write(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        began = time.monotonic()
        try:
            commit(self._folder, meta["step"], self._attempt, tensors, meta)
            self._retain()
        except (OSError, SafetensorError) as error:
            self._error = error
        self.write_s = time.monotonic() - began

    def _retain(self) -> None:
        """Delete what the settings do not keep; only once the newest one has been read back as good."""
        found = entries(self._folder)
        verify(found[-1].path)
        s = self._settings
        keep = {entry.path for entry in found[-s.keep_last :]}
        if s.keep_every:
            keep |= {entry.path for entry in found if entry.step % s.keep_every == 0}
        if s.keep_best:
            metrics = {e.path: (read_json(e.path / "meta.json") or {}).get("metric") for e in found}
            known = {path: m for path, m in metrics.items() if m is not None}
            if known:
                keep.add(min(known, key=lambda path: known[path]))
        for entry in found:
            if entry.path not in keep:
                doomed = self._folder / f".draft.old.{entry.path.name}"
                entry.path.rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)


class CorruptCheckpoint(Exception):
    """A committed checkpoint whose files are not what its manifest says."""


def make_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def entries(folder: Path) -> list[Entry]:
    """Committed checkpoints in order of step; what zombies wrote is left out."""
    begun = {int(k): v for k, v in (read_json(folder / "lineage.json") or {}).items() if k.isdigit()}
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match:
            entry = Entry(path, int(match[1]), int(match[2]))
            later = [step for attempt, step in begun.items() if attempt > entry.attempt]
            if all(entry.step <= step for step in later):
                found.append(entry)
    return sorted(found, key=lambda entry: (entry.step, entry.attempt))


def commit(folder: Path, step: int, attempt: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> Path:
    """Write one checkpoint by the protocol at the top of this file; gives its folder."""
    name = f"step_{step:09d}.a{attempt}"
    draft = folder / f".draft.{name}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    contents = {"tensors.safetensors": save_tensors(tensors), "meta.json": json.dumps(meta).encode()}
    manifest = {
        file: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for file, content in contents.items()
    }
    contents["manifest.json"] = json.dumps({"format": 1, "step": step, "files": manifest}).encode()
    for file, content in contents.items():
        _write_synced(draft / file, content)
    _sync_folder(draft)
    final = folder / name
    if final.exists():  # the same step of the same attempt: saved again at a stop
        final.rename(folder / f".draft.replaced.{name}.{time.monotonic_ns()}")
    draft.rename(final)
    _sync_folder(folder)
    replace_text(folder / "latest", name)
    return final


def verify(path: Path) -> dict[str, bytes]:
    """The files of a checkpoint, compared with its manifest. Raises CorruptCheckpoint naming the file."""
    manifest = read_json(path / "manifest.json")
    files = (manifest or {}).get("files")
    if not isinstance(files, dict) or set(files) != set(FILES):
        raise CorruptCheckpoint(f"{path.name}/manifest.json is missing or not a manifest")
    contents = {}
    for name in FILES:
        expected = files[name]
        try:
            content = (path / name).read_bytes()
        except OSError as error:
            raise CorruptCheckpoint(f"{path.name}/{name} cannot be read: {error.strerror}") from None
        if len(content) != expected.get("bytes"):
            raise CorruptCheckpoint(
                f"{path.name}/{name} has {len(content)} bytes, not {expected.get('bytes')}"
            )
        if hashlib.sha256(content).hexdigest() != expected.get("sha256"):
            raise CorruptCheckpoint(f"{path.name}/{name} does not have the SHA-256 of its manifest")
        contents[name] = content
    return contents


def read(path: Path) -> Snapshot:
    """A verified checkpoint. Raises CorruptCheckpoint."""
    contents = verify(path)
    try:
        tensors, meta = load_tensors(contents["tensors.safetensors"]), json.loads(contents["meta.json"])
    except (SafetensorError, ValueError) as error:
        raise CorruptCheckpoint(f"{path.name}: {error}") from None
    return Snapshot(tensors, meta)


def _write_synced(path: Path, content: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def iterate_good(folder: Path) -> Iterator[tuple[Entry, str | None]]:
    """Each committed checkpoint with what is wrong with it, or None."""
    for entry in entries(folder):
        try:
            verify(entry.path)
        except CorruptCheckpoint as error:
            yield entry, str(error)
        else:
            yield entry, None
