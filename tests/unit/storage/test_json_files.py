"""Small files that anything may have happened to: what is read of them, and what is said of what cannot be."""

import copy
import errno
import os
import pickle
import socket
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typing_extensions import TypedDict

from hpctrain.errors import Damaged, Foreign
from hpctrain.storage import json_files
from hpctrain.storage.json_files import MOST_BYTES, clock_of, load, read_json, read_small, replace_text
from hpctrain.storage.run_state import RunState, StateFile
from tests import damages

pytestmark = pytest.mark.usefixtures("at_once")


def as_socket(path):
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path may not be long
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(here)


DAMAGES = {
    "a pipe": (os.mkfifo, "not a regular file"),
    "a folder": (Path.mkdir, "not a regular file"),
    "a socket": (as_socket, "not a regular file"),
    "a link": (damages.link, "not a regular file"),
    "50 MB": (damages.huge, f"larger than {MOST_BYTES // 2**20} MiB"),
    "nothing": (Path.touch, "empty"),
    "half": (lambda path: path.write_text('{"phase": "done", "st'), "not JSON: EOF"),
    "binary": (lambda path: path.write_bytes(bytes(range(256))), "not JSON"),
    "deep": (lambda path: path.write_text("[" * 100_000), "not JSON: recursion limit"),
    "a list": (lambda path: path.write_text("[1]"), "should be an object"),
    "a word for a number": (lambda path: path.write_text('{"step": "x"}'), "step: input should be a valid integer"),
    "a phase that is none": (lambda path: path.write_text('{"phase": 5}'), "phase: input should be"),
    "no number": (lambda path: path.write_text('{"heartbeat": NaN}'), "heartbeat: input should be a finite number"),
    "a huge number": (lambda path: path.write_text('{"step": 1%s}' % ("0" * 400)), "step: "),
    "a negative number": (lambda path: path.write_text('{"attempt": -1}'), "attempt: "),
    "half a letter": (lambda path: path.write_text('{"detail": "\\ud800"}'), "not JSON: "),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_wrong_with_a_file_is_said_and_nothing_waits_for_it(name, tmp_path):
    damage, why = DAMAGES[name]
    path = tmp_path / "state.json"
    damage(path)
    with pytest.raises(Damaged) as said:
        load(path, RunState)
    assert why in said.value.why
    assert str(said.value) == f"{path} is damaged ({said.value.why})"
    state = StateFile(path)
    assert why in state.read().damage
    assert state.read_with_age(5.0)[1] is None
    state.submitted()  # whoever may write the state heals it
    assert (state.read().phase, state.read().damage) == ("submitted", None)


def test_missing_and_whole_are_no_damage(tmp_path):
    path = tmp_path / "state.json"
    assert load(path, RunState) is None
    path.write_text('{"phase": "running", "step": 3, "figures": {"loss": NaN}, "of_a_later_version": []}')
    assert (load(path, RunState).phase, load(path, RunState).step) == ("running", 3)
    with pytest.raises(FileNotFoundError):
        read_small(tmp_path / "none")


def test_a_device_is_not_read():
    with pytest.raises(Damaged, match="not a regular file"):
        read_small(Path("/dev/zero"))


def test_the_error_may_go_to_another_process():
    error = pickle.loads(pickle.dumps(Damaged("/runs/x/state.json", "empty")))
    assert (str(error), error.why) == ("/runs/x/state.json is damaged (empty)", "empty")


def test_a_folder_in_the_way_is_kept_beside_the_file(tmp_path):
    path = tmp_path / "pause.json"
    path.mkdir()
    (path / "somebody's").touch()
    replace_text(path, "{}")
    assert path.read_text() == "{}"
    assert [p.name for p in tmp_path.rglob("somebody's")] == ["somebody's"]


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "state.json"
    for text in ("first", "second"):
        replace_text(path, text)
        assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("state.json", text)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_cannot_be_written_leaves_the_old_text(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    path.write_text("old")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(json_files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_text(path, "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("state.json", "old")]


def test_the_new_text_is_on_the_disk_and_in_the_same_folder_before_it_has_its_name(tmp_path, monkeypatch):
    path, synced = tmp_path / "state.json", []

    def sync(handle):
        (draft,) = tmp_path.iterdir()
        synced.append((draft.name.startswith(".state.json."), draft.read_text()))

    monkeypatch.setattr(json_files.os, "fsync", sync)
    replace_text(path, "new")
    assert synced == [(True, "new")]


def test_a_folder_in_the_way_is_called_damaged(tmp_path):
    (tmp_path / "pause.json").mkdir()
    replace_text(tmp_path / "pause.json", "{}")
    (kept,) = [p for p in tmp_path.iterdir() if p.is_dir()]
    assert kept.name.startswith("pause.json.")
    assert kept.name.endswith(".damaged")


@pytest.mark.parametrize("size", [0, 1, 100_000, MOST_BYTES])
def test_content_and_time_of_a_file(tmp_path, size):
    path = tmp_path / "state.json"
    path.write_bytes(b"x" * size)
    os.utime(path, (1000.0, 1000.0))
    assert read_small(path) == (b"x" * size, 1000.0)


def test_one_byte_too_many(tmp_path):
    with (tmp_path / "state.json").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(Damaged, match=r"\(larger than 16 MiB\)"):
        read_small(tmp_path / "state.json")


def test_a_file_that_arrives_in_pieces_is_read_whole(tmp_path, monkeypatch):
    path, read, content = tmp_path / "state.json", os.read, b"abcdefgh" * (MOST_BYTES // 8)
    path.write_bytes(content)
    monkeypatch.setattr(json_files.os, "read", lambda handle, size: read(handle, min(size, MOST_BYTES // 3)))
    assert read_small(path)[0] == content


def test_a_file_that_was_cut_meanwhile_is_what_is_left_of_it(tmp_path, monkeypatch):
    path, pieces = tmp_path / "state.json", [b"abc", b""]
    path.write_bytes(b"abcdefgh")
    monkeypatch.setattr(json_files.os, "read", lambda handle, size: pieces.pop(0))
    assert read_small(path)[0] == b"abc"


def test_an_error_of_the_disk_is_said_in_its_own_words(tmp_path, monkeypatch):
    def broken(handle, size):
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "state.json").write_text("{}")
    monkeypatch.setattr(json_files.os, "read", broken)
    with pytest.raises(Damaged, match=r"\(Input/output error\)"):
        read_small(tmp_path / "state.json")


def test_every_handle_is_closed(tmp_path):
    (tmp_path / "state.json").write_text("{}")
    before = len(list(Path("/proc/self/fd").iterdir()))
    read_small(tmp_path / "state.json")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(("text", "why"), [
    ("", "empty"),
    ("{", "not JSON: EOF while parsing an object at line 1 column 1"),
    ("[1]", "Input should be an object"),
    ('{"starts": 5}', "starts: input should be a valid array"),
    ('{"step": "3"}', "step: input should be a valid integer"),
])  # fmt: skip
def test_the_place_and_the_fault_are_named(tmp_path, text, why):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(Damaged) as said:
        load(tmp_path / "state.json", RunState)
    assert said.value.why.startswith(why)
    assert "state.json" in str(said.value)


def test_any_kind_of_record_is_read_and_a_fault_inside_of_it_has_its_place(tmp_path):
    @dataclass(frozen=True)
    class Part:
        step: int

    @dataclass(frozen=True)
    class Whole:
        part: Part

    path = tmp_path / "whole.json"
    path.write_text('{"part": {"step": 3}}')
    assert load(path, Whole) == load(path, Whole) == Whole(Part(3))
    path.write_text('{"part": {"step": "3"}}')
    with pytest.raises(Damaged, match=r"\(part\.step: input should be a valid integer\)"):
        load(path, Whole)


def test_a_key_that_a_table_inside_of_a_record_lacks_is_named(tmp_path):
    class Plan(TypedDict):
        runs: list[dict[str, Any]]

    path = tmp_path / "plan.json"
    path.write_text('{"runs": [{"config": {}}]}')
    plan = load(path, Plan)
    with pytest.raises(Damaged, match=r"plan\.json is damaged \(runs\.0\.config\.cluster is missing\)"):
        plan["runs"][0]["config"]["cluster"]
    assert plan == {"runs": [{"config": {}}]} == copy.deepcopy(plan)


@pytest.mark.parametrize(("text", "value"), [
    ('{"a": [1]}', {"a": [1]}), ("[1]", None), ("{", None), ("", None), ("[" * 100_000, None),
])  # fmt: skip
def test_what_can_be_made_again_is_read_without_a_complaint(tmp_path, text, value):
    (tmp_path / "cache.json").write_text(text)
    assert read_json(tmp_path / "cache.json") == value


def test_a_missing_cache_is_none(tmp_path):
    assert read_json(tmp_path / "cache.json") is None


def test_the_clock_is_that_of_the_storage(tmp_path, monkeypatch):
    """This host's is an hour late."""
    monkeypatch.setattr(json_files, "time", SimpleNamespace(time=lambda: time.time() - 3600.0))
    assert clock_of(tmp_path) == pytest.approx(time.time(), abs=60)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_file_has_this_host_s_clock(tmp_path):
    assert clock_of(tmp_path / "none") == pytest.approx(time.time(), abs=60)


def test_an_error_names_the_file_and_not_its_draft(tmp_path, monkeypatch):
    def full(handle):
        (draft,) = tmp_path.iterdir()
        draft.unlink()  # somebody cleans up: that is not the error to tell of
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(json_files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        replace_text(tmp_path / "state.json", "new")
    assert caught.value.filename == str(tmp_path / "state.json")


@pytest.mark.parametrize("own", [False, True])
def test_a_file_that_others_could_have_written_may_be_shown_but_not_acted_on(tmp_path, own):
    path = tmp_path / "state.json"
    path.write_text('{"step": 3}')
    assert load(path, RunState, own).step == 3
    path.chmod(0o666)
    if own:
        with pytest.raises(Foreign):
            load(path, RunState, own)
    else:
        assert load(path, RunState).step == 3
    assert load(tmp_path / "none", RunState, own) is None


def test_a_whole_file_is_asked_for_at_once_and_its_end_once_more_at_most(tmp_path, monkeypatch):
    (tmp_path / "state.json").write_bytes(b"x" * 100)
    read, asked = os.read, []
    monkeypatch.setattr(json_files.os, "read", lambda handle, size: asked.append(size) or read(handle, size))
    read_small(tmp_path / "state.json")
    assert asked == [101]


def test_a_list_of_records_is_what_it_says(tmp_path):
    (tmp_path / "saved.json").write_text("20")
    assert load(tmp_path / "saved.json", int) == 20
    (tmp_path / "names.json").write_text('["a", "b"]')
    assert type(load(tmp_path / "names.json", list[str])) is list
