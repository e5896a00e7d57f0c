"""The file-system calls of a commit: what they leave behind, also if one of them fails."""

import errno
import hashlib
import json
import os
import stat
from pathlib import Path

import pytest

from hpctrain.errors import UserError
from hpctrain.storage import files
from hpctrain.storage.files import FILES, Files, replace_file, seal, unseal, write_file


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


class Traced(Files):
    """The real calls, each of which is noted; those in `failing` raise OSError instead."""

    def __init__(self, *failing):
        self.calls, self.failing = [], failing

    def __getattribute__(self, name):
        attribute = super().__getattribute__(name)
        if not callable(attribute):
            return attribute

        def call(*arguments):
            self.calls.append(name)
            if name in self.failing:
                raise OSError(errno.ENOSPC, name)
            return attribute(*arguments)

        return call


@pytest.fixture(params=[0o000, 0o777], ids=["umask 0", "umask 0777"])
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_what_is_made_belongs_to_its_owner_alone(tmp_path):
    FILES.make_folder(tmp_path / "folder")
    os.close(FILES.create(tmp_path / "file"))
    assert (mode(tmp_path / "folder"), mode(tmp_path / "file")) == (0o700, 0o600)


def test_a_folder_that_is_there_already_stays_as_it_is(tmp_path):
    (tmp_path / "file").touch()
    tmp_path.chmod(0o750)
    FILES.make_folder(tmp_path)
    assert mode(tmp_path) == 0o750
    assert (tmp_path / "file").exists()


def test_a_new_file_replaces_nothing_and_follows_no_link(tmp_path):
    (tmp_path / "old").write_text("old")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("old", "link"):
        with pytest.raises(FileExistsError):
            FILES.create(tmp_path / name)
    assert (tmp_path / "old").read_text() == "old"
    assert not (tmp_path / "nowhere").exists()


def test_all_is_written_if_the_system_takes_less_at_a_time(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:3]))
    assert write_file(tmp_path / "file", [memoryview(b"12345678"), memoryview(b"9")], FILES)[0] == 9
    assert (tmp_path / "file").read_bytes() == b"123456789"


def test_content_and_names_are_made_durable(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(Path(f"/proc/self/fd/{handle}").readlink()))
    before = open_descriptors()
    replace_file(tmp_path / "file", b"new", FILES)
    draft, folder = synced
    assert draft.name.startswith(".draft.file.")
    assert folder == tmp_path
    assert open_descriptors() == before


def test_a_folder_is_closed_although_it_cannot_be_synced(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(os, "fsync", full)
    before = open_descriptors()
    with pytest.raises(OSError, match="broken disk"):
        FILES.sync_folder(tmp_path)
    assert open_descriptors() == before


def test_renaming_replaces(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    FILES.rename(tmp_path / "a", tmp_path / "b")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("b", "a")]


def test_a_link_is_made_once(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "theirs").write_text("theirs")
    assert FILES.link(tmp_path / "mine", tmp_path / "name")
    assert (tmp_path / "name").read_text() == "mine"
    assert not FILES.link(tmp_path / "theirs", tmp_path / "name")
    assert (tmp_path / "name").read_text() == "mine"


def test_a_link_counts_although_nfs_says_that_it_is_in_the_way(tmp_path, monkeypatch):
    link = os.link

    def twice(old, new):
        link(old, new)
        link(old, new)

    monkeypatch.setattr(os, "link", twice)
    (tmp_path / "mine").touch()
    assert FILES.link(tmp_path / "mine", tmp_path / "name")


def test_a_written_file_is_described_by_its_size_and_digest(tmp_path):
    before, traced = open_descriptors(), Traced()
    size, digest = write_file(tmp_path / "file", [memoryview(b"ab"), memoryview(b"c")], traced)
    assert (size, digest) == (3, hashlib.sha256(b"abc").hexdigest())
    assert traced.calls == ["create", "write", "write", "sync", "close"]
    assert open_descriptors() == before


@pytest.mark.parametrize(
    "failing", [("write",), ("sync",), ("close",), ("write", "close"), ("sync", "close")]
)
def test_a_file_that_cannot_be_written_is_an_error_the_first_one(tmp_path, failing):
    with pytest.raises(OSError, match=failing[0]):
        write_file(tmp_path / "file", [memoryview(b"abc")], Traced(*failing))


def test_a_file_that_cannot_be_written_is_closed(tmp_path):
    before = open_descriptors()
    with pytest.raises(OSError, match="sync"):
        write_file(tmp_path / "file", [memoryview(b"abc")], Traced("sync"))
    assert open_descriptors() == before


def test_a_replacement_is_renamed_when_it_is_durable(tmp_path):
    (tmp_path / "file").write_text("old")
    traced = Traced()
    replace_file(tmp_path / "file", b"new", traced)
    assert traced.calls == ["create", "write", "sync", "close", "rename", "sync_folder"]
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"new")]


@pytest.mark.parametrize("failing", ["create", "write", "sync", "close", "rename"])
def test_a_replacement_that_fails_leaves_the_old_content_alone(tmp_path, failing):
    (tmp_path / "file").write_text("old")
    with pytest.raises(OSError, match=failing):
        replace_file(tmp_path / "file", b"new", Traced(failing))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_a_draft_that_cannot_be_removed_does_not_hide_the_first_error(tmp_path):
    with pytest.raises(OSError, match="rename"):
        replace_file(tmp_path / "file", b"new", Traced("rename", "remove"))
    (draft,) = tmp_path.iterdir()
    # Unlike all other drafts, and hidden from who looks for files by their name.
    assert len(draft.name.removeprefix(".draft.file.")) == 8


def test_a_tree_is_removed_and_its_links_are_not_followed(tmp_path):
    outside, tree = tmp_path / "outside", tmp_path / "tree"
    (outside / "folder").mkdir(parents=True)
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "file").touch()
    (tree / "link").symlink_to(outside)
    (tree / "dangling").symlink_to("nowhere")
    files.remove_tree(tree, FILES)
    assert list(tmp_path.iterdir()) == [outside]
    assert list(outside.iterdir()) == [outside / "folder"]


def test_a_tree_may_be_a_file_or_a_link(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        files.remove_tree(tmp_path / name, FILES)
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_removals_go_through_the_calls_they_were_given(tmp_path):
    (tmp_path / "tree" / "folder").mkdir(parents=True)
    (tmp_path / "tree" / "file").touch()
    traced = Traced()
    files.remove_tree(tmp_path / "tree", traced)
    assert traced.calls == ["remove", "remove_folder", "remove_folder"]  # in the order of names


def test_only_a_regular_file_is_opened(tmp_path):
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with os.fdopen(files.open_regular(tmp_path / "file")) as opened:
        assert opened.read() == "text"
    before = open_descriptors()
    with pytest.raises(OSError, match="link"):
        files.open_regular(tmp_path / "link")
    for name in ("folder", "pipe"):
        with pytest.raises(OSError, match=f"^{name} is not a regular file$"):
            files.open_regular(tmp_path / name)
    assert open_descriptors() == before


class Folder:
    """A folder with this owner and mode."""

    def __init__(self, owner, mode):
        self.owner, self.mode = owner, mode

    def stat(self):
        return os.stat_result((stat.S_IFDIR | self.mode, 0, 0, 2, self.owner, 0, 0, 0, 0, 0))

    def __str__(self):
        return "/runs/r"


@pytest.mark.parametrize(
    ("owner", "mode", "found"),
    [
        (1000, 0o700, None),
        (1000, 0o755, None),
        (0, 0o700, None),  # root can do all anyway
        (1001, 0o700, "owner 1001, mode 0700"),
        (1000, 0o720, "owner 1000, mode 0720"),
        (1000, 0o702, "owner 1000, mode 0702"),
        (0, 0o1777, "owner 0, mode 1777"),
    ],
)
def test_a_folder_that_others_may_write_to_is_refused(monkeypatch, owner, mode, found):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    folder = Folder(owner, mode)
    if found is None:
        files.refuse_if_shared(folder)
    else:
        with pytest.raises(UserError) as refused:
            files.refuse_if_shared(folder)
        assert str(refused.value) == (
            f"run=/runs/r: others may write there ({found}); look at it, then chmod 0700"
        )


VALUES = {"step": 3, "name": "ä", "list": [1, 2.5, None]}


def test_sealed_values_carry_their_digest_and_come_back():
    sealed = seal(VALUES)
    values = json.loads(sealed)
    digest = values.pop("seal")
    assert values == VALUES == unseal(sealed)
    assert digest == hashlib.sha256(json.dumps(VALUES, sort_keys=True, indent=1).encode() + b"\n").hexdigest()
    assert seal({"b": 1, "a": 2}) == seal({"a": 2, "b": 1})


def test_every_changed_bit_shows():
    sealed = seal(VALUES)
    for place in range(8 * len(sealed)):
        damaged = bytearray(sealed)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(ValueError, match=r"."):
            unseal(bytes(damaged))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "Expecting value"),
        (b"\x80", "can't decode"),
        (b"[]", "^not an object$"),
        (b"{}\n", "^does not have the SHA-256 that it names$"),
        (seal(VALUES)[:-1], "^does not have the SHA-256 that it names$"),
        (b"[" * 1_000_000, "^nested too deeply$"),
    ],
    ids=["empty", "bytes", "list", "unsealed", "cut", "deep"],
)
def test_what_was_not_sealed_is_refused(content, why):
    with pytest.raises(ValueError, match=why):
        unseal(content)
