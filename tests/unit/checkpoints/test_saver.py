"""Saving and restoring in one process: round trips, retention, refusals, failed writes."""

import errno
import json
import math
import os
import shutil
import stat
import threading

import pytest
import torch

from hpctrain.checkpoints import saver as checkpoint
from hpctrain.checkpoints import store
from hpctrain.checkpoints.saver import Checkpointer, Snapshot
from hpctrain.config.settings import CheckpointConfig
from hpctrain.errors import RunFailed, UserError
from hpctrain.storage import lock
from hpctrain.storage.files import Files, seal, unseal


def make_snapshot(step, size=64):
    generator = torch.Generator().manual_seed(step)
    tensors = {
        "model/weight": torch.randn(size, 4, generator=generator),
        "model/half": torch.randn(3, generator=generator).bfloat16(),
        "model/count": torch.tensor(step),
        "rng/0/cpu": torch.get_rng_state(),
        "empty": torch.zeros(0, 3),
    }
    meta = {"step": step, "epoch": step / 10, "samples": step * 8, "world_size": 1, "note": "é"}
    return Snapshot(tensors, meta)


def assert_same(found, expected):
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert torch.equal(found.tensors[name], tensor), name
        assert found.tensors[name].dtype == tensor.dtype
    assert found.meta.items() >= expected.meta.items()


@pytest.fixture
def folder(tmp_path):
    tmp_path.chmod(0o700)
    return tmp_path / "checkpoints"


def open_checkpoints(folder, attempt=1, files=None, **settings):
    """A checkpointer of a new attempt, whose predecessor has ended."""
    files = files or Files()
    lock.unlock(folder)
    term = lock.acquire(folder, attempt, files=files)
    return Checkpointer(folder, CheckpointConfig(**settings), attempt, 1e6, term, files=files)


def names(folder):
    return [entry.step for entry in store.entries(folder)]


def test_what_is_saved_comes_back_bit_for_bit(folder):
    first = open_checkpoints(folder)
    assert first.restore() is None
    snapshot = make_snapshot(7)
    first.save(snapshot, metric=0.5)
    first.finish()
    found = open_checkpoints(folder, 2).restore()
    assert_same(found, snapshot)
    assert (found.meta["metric"], found.meta["attempt"]) == (0.5, 1)


def test_safetensors_alone_reads_the_weights(folder):
    from safetensors.torch import load_file

    saver = open_checkpoints(folder)
    saver.restore()
    saver.save(make_snapshot(7))
    saver.finish()
    (path,) = folder.glob("step_*")
    assert_same(Snapshot(load_file(path / "tensors.safetensors"), {}), Snapshot(make_snapshot(7).tensors, {}))
    assert not [p for p in path.iterdir() if p.suffix not in (".json", ".safetensors")]


def test_training_may_change_the_tensors_while_they_are_written(folder):
    release = threading.Event()

    class Slow(Files):
        def write(self, handle, data):
            release.wait(10)
            super().write(handle, data)

    release.set()
    saver = open_checkpoints(folder, files=Slow())
    saver.restore()
    release.clear()
    snapshot = make_snapshot(3)
    saver.save(snapshot)
    snapshot.tensors["model/weight"].zero_()
    release.set()
    saver.finish()
    assert_same(open_checkpoints(folder, 2).restore(), make_snapshot(3))


def test_the_host_buffer_is_used_again(folder):
    saver = open_checkpoints(folder)
    saver.restore()
    saver.save(make_snapshot(1))
    saver.wait()
    place = saver._buffer._flat.data_ptr()
    saver.save(make_snapshot(2))
    saver.wait()
    assert saver._buffer._flat.data_ptr() == place
    saver.save(make_snapshot(3, size=99))  # another shape: another buffer
    saver.finish()
    assert_same(open_checkpoints(folder, 2).restore(), make_snapshot(3, size=99))


def test_folders_are_0700_and_files_0600_under_any_umask(folder):
    before = os.umask(0)
    try:
        for mask in (0, 0o777):
            os.umask(mask)
            saver = open_checkpoints(folder)
            saver.restore()
            saver.save(make_snapshot(mask))
            saver.finish()
    finally:
        os.umask(before)
    for path in [folder, *folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_folder_that_others_may_write_is_refused(folder, mode):
    saver = open_checkpoints(folder)
    folder.chmod(mode)
    with pytest.raises(UserError, match="others may write there"):
        saver.restore()


def test_a_broken_checkpoint_is_put_aside_and_the_one_before_is_used(folder, capsys):
    saver = open_checkpoints(folder)
    saver.restore()
    for step in (1, 2):
        saver.save(make_snapshot(step))
    saver.finish()
    broken = folder / store.entries(folder)[-1].name
    (broken / "tensors.safetensors").write_bytes(b"\0" * 100)
    assert_same(open_checkpoints(folder, 2).restore(), make_snapshot(1))
    assert f"{broken.name}/tensors.safetensors has 100 bytes" in capsys.readouterr().out
    assert list(folder.glob(f"broken.{broken.name}.*"))


def test_no_good_checkpoint_never_means_step_0(folder):
    saver = open_checkpoints(folder)
    saver.restore()
    saver.save(make_snapshot(1))
    saver.finish()
    (path,) = folder.glob("step_*")
    (path / "meta.json").unlink()
    for attempt in (2, 3):  # and not at the second try either
        with pytest.raises(RunFailed, match="NO_VALID_CHECKPOINT"):
            open_checkpoints(folder, attempt).restore()


def test_checkpoints_that_have_gone_are_missed(folder):
    saver = open_checkpoints(folder)
    saver.restore()
    saver.save(make_snapshot(1))
    saver.finish()
    shutil.rmtree(next(folder.glob("step_*")))
    with pytest.raises(RunFailed, match=r"NO_VALID_CHECKPOINT.* another run.name or remove"):
        open_checkpoints(folder, 2).restore()


def saved(folder, *steps):
    saver = open_checkpoints(folder, attempt=lock.last_owner(folder).attempt + 1 if folder.exists() else 1)
    saver.restore()
    for step in steps:
        saver.save(make_snapshot(step))
    saver.finish()
    return saver


def test_a_term_that_began_from_a_checkpoint_is_a_witness(folder):
    saved(folder, 1)
    saved(folder, 2)  # began at step 1
    for path in folder.iterdir():
        if path.name != "terms":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for attempt in (3, 4):
        with pytest.raises(
            RunFailed, match="NO_VALID_CHECKPOINT: some were saved, but no checkpoint is left"
        ):
            open_checkpoints(folder, attempt).restore()


def test_other_files_of_the_run_are_witnesses(folder):
    with pytest.raises(RunFailed, match="NO_VALID_CHECKPOINT: step 40 was saved, but no checkpoint is left"):
        open_checkpoints(folder).restore(40)


def test_folders_that_a_purge_has_emptied_are_no_beginning(folder):
    saved(folder, 1, 2)
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(RunFailed, match=r"NO_VALID_CHECKPOINT: step_000000002.*manifest"):
        open_checkpoints(folder).restore()


def test_an_older_checkpoint_that_is_left_is_used_whatever_else_has_gone(folder):
    saved(folder, 1, 2)
    shutil.rmtree(max(folder.glob("step_*")))
    shutil.rmtree(folder / "terms")
    (folder / "latest").unlink()
    saver = open_checkpoints(folder, 2)
    assert_same(saver.restore(2), make_snapshot(1))
    assert saver.committed_step == 1
    assert saver._term.number == 2  # not the number of the term that has gone
    saver.save(make_snapshot(2))
    saver.finish()
    assert names(folder) == [1, 2]


def test_a_run_that_never_saved_begins_at_its_beginning(folder):
    for attempt in (1, 2, 3):
        assert open_checkpoints(folder, attempt).restore(0) is None


class Failing(Files):
    """The next calls of `write` fail with these errors, then they work."""

    def __init__(self):
        self.errors = []

    def write(self, handle, data):
        if self.errors:
            raise OSError(self.errors.pop(0), "as the test wishes")
        super().write(handle, data)


def test_a_failed_write_is_reported_and_the_run_goes_on(folder, capsys):
    files = Failing()
    saver = open_checkpoints(folder, files=files)
    saver.restore()
    files.errors = [errno.EIO]
    saver.save(make_snapshot(1))
    saver.save(make_snapshot(2))
    assert "checkpoint not written" in capsys.readouterr().out
    saver.wait()
    files.errors = [errno.EIO]
    saver.save(make_snapshot(3))
    saver.finish()  # writes it again
    assert names(folder) == [2, 3]
    assert not list(folder.glob(".draft.*"))


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, "DISK_FULL"), (errno.EDQUOT, "DISK_FULL"), (errno.EIO, "STORAGE_ERROR"),
     (errno.ESTALE, "STORAGE_ERROR"), (errno.EROFS, "STORAGE_ERROR")],
)  # fmt: skip
def test_failing_for_half_a_minute_ends_the_run(folder, number, reason, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    files = Failing()
    saver = open_checkpoints(folder, files=files)
    saver.restore()
    files.errors = [number] * 7
    for step in range(1, 7):  # however many fail within it
        saver.save(make_snapshot(step))
        now[0] += 5.9 if step < 6 else 0
    saver.wait()
    now[0] += 0.6
    saver.save(make_snapshot(7))
    with pytest.raises(RunFailed, match=reason):
        saver.wait()


def test_a_failure_counts_anew_after_a_save_that_worked(folder, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    files = Failing()
    saver = open_checkpoints(folder, files=files)
    saver.restore()
    for step in (1, 3, 5):
        files.errors = [errno.ENOSPC]
        saver.save(make_snapshot(step))
        now[0] += checkpoint.RETRY_S
        saver.save(make_snapshot(step + 1))
        saver.wait()
    assert names(folder) == [2, 4, 6]
    assert saver.committed_step == 6


def test_the_last_save_of_divided_states_is_tried_again_by_all_ranks(folder, monkeypatch):
    monkeypatch.setattr(checkpoint, "DIVIDE_BYTES", 1)
    monkeypatch.setattr(checkpoint, "WHOLE_BYTES", 100)
    monkeypatch.setattr(checkpoint, "AGAIN_S", 0)
    files = Failing()
    first = open_checkpoints(folder)
    first.restore()
    first._size = 2
    second = Checkpointer(folder, CheckpointConfig(), 1, 1e6, None, 1, 2, files)
    snapshot = make_snapshot(5)
    snapshot.tensors["model/other"] = torch.arange(300.0)
    files.errors = [errno.ENOSPC, errno.ENOSPC]  # its part, and the first try to say so
    meeting = threading.Barrier(2)
    told = {}

    def finish(rank, saver):
        def gather(failed):
            told[rank] = failed
            meeting.wait(20)
            all_ranks = [told[0], told[1]]
            meeting.wait(20)
            return all_ranks

        saver.save(snapshot)
        saver.finish(gather)

    other = threading.Thread(target=finish, args=(1, second))
    other.start()
    finish(0, first)
    other.join()
    assert_same(open_checkpoints(folder, 2).restore(), snapshot)
    assert not list(folder.glob(".draft.*"))


def test_a_defect_in_the_writer_is_not_taken_for_a_bad_disk(folder):
    saver = open_checkpoints(folder)
    saver.restore()
    snapshot = make_snapshot(1)
    snapshot.meta["when"] = object()
    saver.save(snapshot)
    with pytest.raises(TypeError):
        saver.wait()


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"keep_last": 2, "keep_best": False}, [9, 10]),
        ({"keep_last": 2, "keep_best": True}, [4, 9, 10]),
        ({"keep_last": 1, "keep_every": 3, "keep_best": False}, [3, 6, 9, 10]),
    ],
)
def test_retention(folder, settings, kept):
    saver = open_checkpoints(folder, **settings)
    saver.restore()
    for step in range(1, 11):
        saver.save(make_snapshot(step), metric=math.nan if step == 1 else abs(step - 4.2))
    saver.finish()
    assert names(folder) == kept


def test_retention_counts_verified_checkpoints_only(folder):
    saver = open_checkpoints(folder, keep_last=3, keep_best=False)
    saver.restore()
    for step in (1, 2, 3):
        saver.save(make_snapshot(step))
    saver.finish()
    for step in (2, 3):
        (folder / next(e.name for e in store.entries(folder) if e.step == step) / "meta.json").write_text(
            "{}"
        )
    after = open_checkpoints(folder, 2, keep_last=2, keep_best=False)
    after._term.begin(3)
    after.save(make_snapshot(4))
    after.finish()
    assert names(folder) == [1, 4]


def test_a_zombie_cannot_commit_and_a_reader_drops_what_it_slipped_in(folder):
    zombie = open_checkpoints(folder, 1)
    zombie.restore()
    for step in (1, 2):
        zombie.save(make_snapshot(step))
    zombie.finish()
    heir = open_checkpoints(folder, 2)
    heir.restore()
    zombie.save(make_snapshot(3))
    with pytest.raises(RunFailed, match=r"RUN_LOCKED.*attempt 2"):
        zombie.wait()
    assert names(folder) == [1, 2]
    zombie._term.confirm = lambda: None  # it looked before the heir came, and renames after
    zombie._term.stands = lambda: True
    zombie.save(make_snapshot(30))
    zombie.wait()
    assert list(folder.glob("step_000000030*"))
    assert names(folder) == [1, 2]
    assert_same(open_checkpoints(folder, 3).restore(), make_snapshot(2))


@pytest.mark.parametrize("size", [3, 8], ids=["a part for each", "more ranks than tensors"])
def test_large_states_are_divided_over_ranks(folder, monkeypatch, size):
    monkeypatch.setattr(checkpoint, "DIVIDE_BYTES", 1)
    monkeypatch.setattr(checkpoint, "WHOLE_BYTES", 100)
    snapshot = make_snapshot(5)
    snapshot.tensors["model/other"] = torch.arange(300.0)
    ranks = [open_checkpoints(folder)]
    ranks[0].restore()
    ranks[0]._size = size
    ranks += [Checkpointer(folder, CheckpointConfig(), 1, 1e6, None, rank, size) for rank in range(1, size)]
    for rank in reversed(ranks):
        rank.save(snapshot)
    for rank in ranks:
        rank.finish()
    (path,) = folder.glob("step_*")
    assert sorted(p.name for p in path.glob("*.safetensors")) == [
        f"tensors-0000{i}-of-0000{size}.safetensors" for i in range(1, size + 1)
    ]
    assert not list(folder.glob(".draft.*"))
    assert_same(open_checkpoints(folder, 2).restore(), snapshot)


def test_a_rank_that_does_not_write_its_part_is_named(folder, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint, "DIVIDE_BYTES", 1)
    monkeypatch.setattr(checkpoint, "PARTS_PATIENCE_S", 0.05)
    monkeypatch.setattr(checkpoint, "RETRY_S", 0.2)
    saver = open_checkpoints(folder)
    saver.restore()
    saver._size = 2
    saver.save(make_snapshot(1))
    with pytest.raises(RunFailed, match="rank 1 did not write its part"):
        saver.finish()
    assert names(folder) == []


def test_auto_interval_follows_the_measured_cost(folder, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    saver = open_checkpoints(folder, every="auto")
    assert not saver.overdue()
    now[0] += 61
    assert saver.overdue()  # the first one, to see what it costs
    saver.stall_s, saver.write_s, saver._saved_at = 0.1, 1.9, now[0]
    now[0] += 1999
    assert not saver.overdue()  # √(2 · 2 s · 10⁶ s) = 2000 s
    now[0] += 2
    assert saver.overdue()


def test_every_min_and_every(folder):
    saver = open_checkpoints(folder, every=5, every_min=1.0)
    assert [step for step in range(1, 12) if saver.due(step, False)] == [5, 10]
    assert not saver.overdue()
    saver._saved_at -= 61
    assert saver.overdue()


def test_sealed_json_shows_every_changed_bit():
    content = seal({"step": 3, "name": "a"})
    assert unseal(content) == {"step": 3, "name": "a"}
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError):  # noqa: PT011 - many kinds of it
            unseal(bytes(changed))
    with pytest.raises(ValueError, match="nested"):
        unseal(b"[" * 100_000)
    assert json.loads(content)["step"] == 3
