"""Storage that fails, lies or was tampered with: damage is found, nothing is run, the last good state is used."""

import errno
import hashlib
import json
import os
import pickle
import random
import shutil
import subprocess

import pytest
import torch

from hpctrain.checkpoints import saver as checkpoint
from hpctrain.checkpoints import store
from hpctrain.checkpoints.saver import Checkpointer, Snapshot
from hpctrain.checkpoints.store import CorruptCheckpoint
from hpctrain.config.settings import CheckpointConfig
from hpctrain.errors import RunFailed, UserError
from hpctrain.storage import lock
from hpctrain.storage.files import Files, seal
from tests.small_disk import small_disk


def make_snapshot(step, count=64):
    generator = torch.Generator().manual_seed(step)
    tensors = {"model/a": torch.randn(count, generator=generator), "model/n": torch.tensor(step)}
    return Snapshot(tensors, {"step": step, "epoch": 0.5, "samples": step, "world_size": 1})


def open_checkpoints(folder, attempt=1, files=None):
    files = files or Files()
    lock.unlock(folder)
    term = lock.acquire(folder, attempt, files=files)
    return Checkpointer(folder, CheckpointConfig(keep_last=5), attempt, 1e6, term, files=files)


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of the steps 1 and 2."""
    tmp_path.chmod(0o700)
    saver = open_checkpoints(tmp_path / "checkpoints")
    saver.restore()
    for step in (1, 2):
        saver.save(make_snapshot(step))
    saver.finish()
    return tmp_path / "checkpoints"


def restored(folder):
    """The step that the next attempt begins from; its tensors are what was saved."""
    found = open_checkpoints(folder, 2).restore()
    step = found.meta["step"]
    for name, tensor in make_snapshot(step).tensors.items():
        assert torch.equal(found.tensors[name], tensor)
    return step


def newest(folder):
    entry = store.entries(folder)[-1]
    return folder / entry.name, entry


def test_a_thousand_flipped_bits_and_cut_ends_are_all_found(folder):
    """Over every file of a checkpoint. Found is what raises; the state itself is never half right."""
    path, entry = newest(folder)
    files = {p.name: p.read_bytes() for p in sorted(path.iterdir())}
    assert set(files) == {"manifest.json", "meta.json", "tensors.safetensors"}
    generator, accepted = random.Random(0), []
    for turn in range(1000):
        name = sorted(files)[turn % len(files)]
        content = bytearray(files[name])
        if turn % 10 < 8:
            bit = generator.randrange(8 * len(content))
            content[bit // 8] ^= 1 << bit % 8
        else:
            del content[generator.randrange(len(content)) :]
        (path / name).write_bytes(content)
        try:
            checkpoint.read(folder, entry)
            accepted.append((name, turn))
        except CorruptCheckpoint as error:
            assert entry.name in str(error)  # noqa: PT017 - each of a thousand
        (path / name).write_bytes(files[name])
    assert accepted == []
    assert restored(folder) == 2


def test_bytes_too_many_and_files_too_many_are_found(folder):
    path, entry = newest(folder)
    with (path / "tensors.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CorruptCheckpoint, match=r"tensors\.safetensors has \d+ bytes"):
        checkpoint.read(folder, entry)
    assert restored(folder) == 1
    path, entry = newest(folder)
    (path / "more.bin").write_bytes(b"")
    with pytest.raises(CorruptCheckpoint, match=r"more\.bin is not in the manifest"):
        checkpoint.read(folder, entry)


class FailingAt(Files):
    """The named call fails with this error, the `times` next times that it is asked for."""

    def __init__(self, call, number, times=1):
        self.armed, self.number, self.left = False, number, times

        def failing(*arguments):
            if self.armed and self.left:
                self.left -= 1
                if call == "close":
                    Files.close(self, *arguments)  # the descriptor is gone either way
                raise OSError(number, os.strerror(number))
            return getattr(Files, call)(self, *arguments)

        setattr(self, call, failing)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EDQUOT])
@pytest.mark.parametrize("call", ["make_folder", "create", "write", "sync", "close", "sync_folder", "rename"])
def test_one_failed_call_costs_one_checkpoint_and_no_more(folder, call, number, capsys):
    files = FailingAt(call, number)
    saver = open_checkpoints(folder, 2, files)
    saver.restore()
    files.armed = True
    saver.save(make_snapshot(3))
    saver.save(make_snapshot(4))  # waits for the first, reports it, and goes on
    saver.finish()
    assert "checkpoint not written" in capsys.readouterr().out
    assert restored(folder) == 4
    assert not list(folder.glob(".draft.*"))


@pytest.mark.parametrize("call", ["write", "sync", "close", "rename"])
@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.EDQUOT, "DISK_FULL"), (errno.EIO, "STORAGE_ERROR"), (errno.ESTALE, "STORAGE_ERROR")],
)
def test_failing_for_good_ends_the_run_and_keeps_what_was_saved(folder, call, number, reason, monkeypatch):
    monkeypatch.setattr(checkpoint, "RETRY_S", 0.0)
    files = FailingAt(call, number, times=100)
    saver = open_checkpoints(folder, 2, files)
    saver.restore()
    files.armed = True
    saver.save(make_snapshot(3))
    saver.wait()
    saver.save(make_snapshot(4))
    with pytest.raises(RunFailed, match=reason):
        saver.wait()
    assert restored(folder) == 2


def test_a_failed_write_is_told_at_the_next_step(folder, capsys):
    files = FailingAt("sync", errno.EIO)
    saver = open_checkpoints(folder, 2, files)
    saver.restore()
    files.armed = True
    saver.save(make_snapshot(3))
    saver._thread.join()
    assert not saver.overdue()
    saver.report()
    assert "checkpoint not written" in capsys.readouterr().out
    saver._saved_at -= checkpoint.RETRY_S
    assert saver.overdue()  # and tried again soon


def test_another_ranks_failed_part_is_known_at_once(folder, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint, "DIVIDE_BYTES", 1)
    monkeypatch.setattr(checkpoint, "WHOLE_BYTES", 1)
    first = open_checkpoints(folder, 2)
    first.restore()
    first._size = 2
    files = FailingAt("write", errno.ENOSPC)
    files.armed = True
    second = Checkpointer(folder, CheckpointConfig(), 2, 1e6, None, 1, 2, files)
    for saver in (first, second):
        saver.save(make_snapshot(3))
    for saver in (second, first):
        saver.wait()
    assert "rank 1: [Errno 28]" in capsys.readouterr().out
    for saver in (first, second):
        saver.save(make_snapshot(4))
    for saver in (second, first):
        saver.finish()
    assert restored(folder) == 4


@pytest.fixture
def place(tmp_path):
    """1 MiB of a real file system."""
    with small_disk(tmp_path / "small") as disk:
        yield disk.place


def test_a_full_disk_ends_the_run_and_keeps_the_last_good_checkpoint(place, capsys, monkeypatch):
    monkeypatch.setattr(checkpoint, "RETRY_S", 0.0)
    folder = place / "checkpoints"
    saver = open_checkpoints(folder)
    saver.restore()
    saver.save(make_snapshot(1, 50_000))  # 200 kB
    saver.save(make_snapshot(2, 50_000))
    saver.wait()
    (place / "filler").write_bytes(b"\0" * 500_000)
    saver.save(make_snapshot(3, 50_000))
    saver.wait()
    assert "No space left" in capsys.readouterr().out
    saver.save(make_snapshot(4, 50_000))
    with pytest.raises(RunFailed, match="DISK_FULL"):
        saver.wait()
    assert [entry.step for entry in store.entries(folder)] == [1, 2]
    (place / "filler").unlink()
    after = open_checkpoints(folder, 2)
    assert after.restore().meta["step"] == 2
    after.save(make_snapshot(3, 50_000))
    after.finish()
    assert store.entries(folder)[-1].step == 3


def test_a_disk_that_turns_read_only_ends_the_run_and_keeps_everything(place, monkeypatch):
    monkeypatch.setattr(checkpoint, "RETRY_S", 0.0)
    folder = place / "checkpoints"
    saver = open_checkpoints(folder)
    saver.restore()
    saver.save(make_snapshot(1))
    saver.wait()
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    saver.save(make_snapshot(2))
    saver.wait()
    saver.save(make_snapshot(3))
    with pytest.raises(RunFailed, match=r"STORAGE_ERROR.*Read-only"):
        saver.wait()
    with pytest.raises(OSError, match="Read-only"):
        lock.acquire(folder, 2)
    subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
    assert restored(folder) == 1


class Canary:
    """Pickled, it writes a file where it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def forge(folder, files, more=None):
    """A checkpoint of step 9 with these files and a manifest that fits them."""
    path, entry = newest(folder)
    forged = store.Entry(9, entry.term, entry.save + 1)
    target = folder / forged.name
    shutil.copytree(path, target)
    meta = json.loads((path / "meta.json").read_text()) | {"step": 9}
    for name, content in ({"meta.json": json.dumps(meta).encode()} | files).items():
        (target / name).write_bytes(content)
    records = {
        p.name: {"bytes": p.stat().st_size, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()}
        for p in target.iterdir()
        if p.name != "manifest.json"
    }
    manifest = {"format": 1, "step": 9, "term": forged.term, "save": forged.save, "files": records}
    (target / "manifest.json").write_bytes(seal(manifest | (more(records) if more else {})))
    return forged


def header(text, body=b""):
    return len(text).to_bytes(8, "little") + text + body


FORGED = {
    "pickle for tensors": lambda canary: {"tensors.safetensors": pickle.dumps(Canary(canary))},
    "pickle for facts": lambda canary: {"meta.json": pickle.dumps(Canary(canary))},
    "torch.save's zip": lambda canary: {"tensors.safetensors": b"PK\x03\x04" + pickle.dumps(Canary(canary))},
    "a header of 2^62 bytes": lambda _: {"tensors.safetensors": (2**62).to_bytes(8, "little") + b"{}"},
    "a tensor of 2^62 bytes": lambda _: {
        "tensors.safetensors": header(
            b'{"a":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (2**62, 2**62)
        )
    },
    "a shape that overflows": lambda _: {
        "tensors.safetensors": header(
            b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'
        )
    },
    "negative offsets": lambda _: {
        "tensors.safetensors": header(b'{"a":{"dtype":"U8","shape":[8],"data_offsets":[-8,0]}}')
    },
    "tensors that overlap": lambda _: {
        "tensors.safetensors": header(
            b'{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[8],'
            b'"data_offsets":[4,12]}}',
            b"\0" * 12,
        )
    },
    "an unknown dtype": lambda _: {
        "tensors.safetensors": header(b'{"a":{"dtype":"OBJECT","shape":[],"data_offsets":[0,0]}}')
    },
    "a hundred thousand brackets": lambda _: {"tensors.safetensors": header(b"[" * 100_000)},
    "brackets for facts": lambda _: {"meta.json": b"[" * 100_000},
    "facts of the wrong kind": lambda _: {"meta.json": b'{"step": "9", "epoch": 0, "samples": 1}'},
    "another step's facts": lambda _: {
        "meta.json": b'{"step": 8, "epoch": 0, "samples": 1, "world_size": 1, "attempt": 1}'
    },
}


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_checkpoint_is_refused_and_nothing_of_it_is_run(folder, tmp_path, what):
    forge(folder, FORGED[what](tmp_path / "canary"))
    assert restored(folder) == 2
    assert not (tmp_path / "canary").exists()
    assert len(list(folder.glob("broken.step_000000009*"))) == 1


@pytest.mark.parametrize("name", ["../../canary", "/etc/passwd", "tensors-1.safetensors/../x", "other.json"])
def test_a_manifest_that_leads_elsewhere_is_refused(folder, tmp_path, name):
    (tmp_path / "canary").write_bytes(b"")
    nothing = {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    forge(folder, {}, more=lambda records: {"files": {**records, name: nothing}})
    assert restored(folder) == 2
    assert (tmp_path / "canary").exists()


def test_sizes_beyond_this_machines_memory_are_refused_before_a_byte_is_read(folder):
    entry = forge(
        folder,
        {},
        more=lambda records: {
            "files": records | {"tensors.safetensors": {"bytes": 2**50, "sha256": "0" * 64}}
        },
    )
    os.truncate(folder / entry.name / "tensors.safetensors", 2**43)  # no space is taken: a hole
    with pytest.raises(CorruptCheckpoint, match="more than this machine's memory"):
        checkpoint.read(folder, entry)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_plain_file_is_refused(folder, tmp_path, kind):
    path, _ = newest(folder)
    content = (path / "tensors.safetensors").read_bytes()
    (path / "tensors.safetensors").unlink()
    if kind == "link":
        (tmp_path / "elsewhere").write_bytes(content)
        (path / "tensors.safetensors").symlink_to(tmp_path / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(path / "tensors.safetensors")
    else:
        (path / "tensors.safetensors").mkdir()
    assert restored(folder) == 1


def test_a_run_directory_that_others_may_write_is_refused(folder):
    folder.parent.chmod(0o777)
    with pytest.raises(UserError, match="others may write there"):
        open_checkpoints(folder, 2).restore()


def test_storage_that_cannot_read_just_now_loses_nothing(folder, monkeypatch, capsys):
    """An error on reading is no proof of damage: the checkpoint stays where it is."""
    monkeypatch.setattr(checkpoint, "READ_PATIENCE_S", (0.0,))
    path, entry = newest(folder)
    real = store.open_regular

    def failing(target):
        if target.parent == path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(target)

    monkeypatch.setattr(store, "open_regular", failing)
    assert restored(folder) == 1
    assert "cannot be read" in capsys.readouterr().out
    assert path.is_dir()
    assert store.superseded(folder) == [entry]
