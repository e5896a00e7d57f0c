"""Whose files and folders are believed. The owners are real: these tests run as root."""

import os
from pathlib import Path

import pytest

from hpctrain.errors import Damaged, Foreign
from hpctrain.storage import ownership
from hpctrain.storage.json_files import read_own, read_small

STRANGER = 61234


@pytest.fixture
def folder(tmp_path):
    """run.root, a study and a run, as hpctrain makes them."""
    run = tmp_path / "root" / "study" / "run"
    run.mkdir(parents=True)
    for made in (run, run.parent, run.parent.parent):
        made.chmod(0o700)
    return run


def walked(folder, **how):
    handle = ownership.walk(folder.parent.parent, folder, **how)
    try:
        return os.fstat(handle).st_ino == folder.stat().st_ino
    finally:
        os.close(handle)


def refused(folder, **how):
    """Returns the line with which a walk to a folder is refused."""
    with pytest.raises(Foreign) as caught:
        walked(folder, **how)
    return str(caught.value)


@pytest.mark.parametrize(
    ("depth", "mode"), [(0, 0o700), (0, 0o755), (0, 0o2775), (0, 0o1777), (1, 0o755), (1, 0o1777), (2, 0o755)]
)
def test_folders_in_which_nobody_else_can_put_a_run(folder, depth, mode):
    [folder.parent.parent, folder.parent, folder][depth].chmod(mode)
    assert walked(folder)


@pytest.mark.parametrize(
    ("depth", "mode"), [(0, 0o777), (1, 0o775), (1, 0o702), (2, 0o770), (2, 0o1777), (2, 0o702)]
)
def test_folders_that_others_may_write_to_are_refused(folder, depth, mode):
    place = [folder.parent.parent, folder.parent, folder][depth]
    place.chmod(mode)
    with pytest.raises(Foreign, match=f"{mode:04o}") as caught:
        walked(folder)
    assert caught.value.filename == str(place)


@pytest.mark.parametrize("depth", [1, 2])
def test_another_s_folder_is_refused_and_his_root_is_not(folder, depth):
    os.chown(folder.parent.parent, STRANGER, STRANGER)
    assert walked(folder)
    os.chown([None, folder.parent, folder][depth], STRANGER, STRANGER)
    with pytest.raises(Foreign, match=f"belongs to uid {STRANGER}"):
        walked(folder)


@pytest.mark.parametrize("depth", [1, 2])
def test_links_are_not_followed_below_the_root(folder, depth):
    place = [None, folder.parent, folder][depth]
    place.rename(folder.parents[2] / "elsewhere")
    place.symlink_to(folder.parents[2] / "elsewhere")
    assert refused(folder) == f"{place} is not believed: is not a folder, or is a link to one"


def test_one_that_became_a_link_between_two_looks_is_not_followed(folder, monkeypatch):
    before, look = folder.stat(), os.stat
    folder.rename(folder.parents[2] / "elsewhere")
    folder.symlink_to(folder.parents[2] / "elsewhere")
    monkeypatch.setattr(os, "stat", lambda name, **how: before if name == "run" else look(name, **how))
    assert refused(folder) == f"{folder} is not believed: became a link meanwhile"


@pytest.mark.parametrize(
    ("owner", "why"), [(0, "cannot be read (Permission denied)"), (STRANGER, f"belongs to uid {STRANGER}")]
)
def test_one_that_is_closed_says_whose_it_is_if_it_is_another_s(folder, monkeypatch, owner, why):
    os.chown(folder, owner, owner)
    enter = os.open

    def closed(name, flags, **how):
        if name == "run":
            raise PermissionError(13, "Permission denied")
        return enter(name, flags, **how)

    monkeypatch.setattr(os, "open", closed)
    assert refused(folder) == f"{folder} is not believed: {why}"


def test_the_root_itself_may_be_a_link(folder):
    (folder.parents[2] / "link").symlink_to(folder.parents[1])
    assert walked(folder.parents[2] / "link" / "study" / "run")


def test_what_was_looked_at_is_what_is_read_whatever_is_put_in_its_place(folder):
    (folder / "file").write_text("ours")
    handle = ownership.walk(folder.parent.parent, folder)
    folder.parent.rename(folder.parents[1] / "away")
    folder.mkdir(parents=True)
    (folder / "file").write_text("theirs")
    assert Path(f"/proc/self/fd/{handle}/file").read_text() == "ours"
    os.close(handle)


def test_no_descriptor_is_left_open(folder):
    before = len([*Path("/proc/self/fd").iterdir()])
    folder.chmod(0o777)
    for place in (folder, folder / "missing"):
        with pytest.raises(OSError, match=r"0777|No such file"):
            ownership.walk(folder.parent.parent, place)
    assert len([*Path("/proc/self/fd").iterdir()]) == before


def test_a_file_of_ours_in_a_folder_of_ours_is_believed(folder):
    (folder / "f").write_text("x")
    assert read_own(folder / "f")[0] == b"x"


@pytest.mark.parametrize(
    ("of_file", "of_folder"),
    [
        ((0, 0o666), (0, 0o700)),
        ((0, 0o600), (0, 0o770)),
        ((STRANGER, 0o600), (0, 0o700)),
        ((0, 0o600), (STRANGER, 0o755)),
    ],
)
def test_a_file_that_others_could_have_written_is_shown_and_not_believed(folder, of_file, of_folder):
    path = folder / "f"
    path.write_text("x")
    for place, (owner, mode) in ((path, of_file), (folder, of_folder)):
        os.chown(place, owner, owner)
        place.chmod(mode)
    with pytest.raises(Foreign, match="is not believed"):
        read_own(path)
    assert read_small(path)[0] == b"x"


def test_a_link_is_damage(folder):
    (folder / "f").symlink_to("/etc/hostname")
    with pytest.raises(Damaged, match="not a regular file"):
        read_own(folder / "f")


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_what_nothing_acts_on_may_lie_in_a_folder_of_ours_that_others_may_write_to(folder, depth):
    place = [folder.parent.parent, folder.parent, folder][depth]
    place.chmod(0o777)
    assert walked(folder, owner_only=True)
    assert "0777" in refused(folder)
    os.chown(folder, STRANGER, STRANGER)
    assert refused(folder, owner_only=True) == f"{folder} is not believed: belongs to uid {STRANGER}"


def test_root_is_believed_by_everybody(folder, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    assert ownership.others(folder.stat()) is None
    os.chown(folder, 1, 1)
    assert ownership.others(folder.stat()) == f"belongs to {ownership.user(1)}"


def test_a_folder_is_this_user_s_alone_or_says_why_not(folder):
    before = len([*Path("/proc/self/fd").iterdir()])
    assert ownership.foreign(folder) is None
    assert ownership.foreign(folder / "missing") is None
    folder.chmod(0o1777)  # nothing is sticky to a folder of one user
    assert ownership.foreign(folder) == "others may write there (mode 1777): look at it, then chmod go-w"
    os.chown(folder, STRANGER, STRANGER)
    assert ownership.foreign(folder) == f"belongs to uid {STRANGER}"
    (folder / "file").touch()
    with pytest.raises(NotADirectoryError):
        ownership.foreign(folder / "file")
    assert len([*Path("/proc/self/fd").iterdir()]) == before
