"""The folders that runs live in: their names, their modes, and which roots are refused."""

import os

import pytest

from hpctrain.errors import UserError
from hpctrain.storage.folders import absolute, check_root, make_private, make_writable, refuse_others


def mode(folder):
    return oct(folder.stat().st_mode & 0o7777)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_new_folders_are_for_their_maker_alone(tmp_path, umask):
    before = os.umask(umask)
    try:
        make_private(tmp_path / "a/b")
    finally:
        os.umask(before)
    assert mode(tmp_path / "a/b") == "0o700"
    assert mode(tmp_path / "a") in ("0o700", "0o600")


def test_a_folder_that_is_there_keeps_its_mode_or_becomes_private(tmp_path):
    tmp_path.chmod(0o755)
    make_writable(tmp_path)
    assert mode(tmp_path) == "0o755"
    make_private(tmp_path)
    assert mode(tmp_path) == "0o700"


def test_a_file_in_the_way_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"run\.root=.*/file/runs: must be a folder that you can write to"):
        make_private(tmp_path / "file/runs")


def test_a_folder_that_others_can_write_to_is_refused(tmp_path):
    (tmp_path / "study").mkdir(mode=0o755)
    refuse_others(tmp_path, tmp_path / "study/run")
    (tmp_path / "study").chmod(0o777)
    with pytest.raises(UserError, match=r"another run\.study makes one of your own"):
        refuse_others(tmp_path, tmp_path / "study/run")


def test_a_path_is_what_the_shell_calls_it(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "link")
    monkeypatch.setenv("PWD", str(tmp_path / "link"))
    assert absolute("runs/../x") == tmp_path / "link/x"
    monkeypatch.setenv("PWD", "/")
    assert absolute("x") == tmp_path / "real/x"


@pytest.mark.parametrize(
    ("root", "why"),
    [("", "must be a folder"), ("a\nb", "line break"), ("a%jb", "%j"), ("a" * 300, "File name too long")],
)
def test_a_root_that_cannot_stand_in_a_job_is_refused(root, why):
    with pytest.raises(UserError, match=why):
        check_root(root)
