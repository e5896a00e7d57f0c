"""The search for runs: what counts as a run, and which one a text names."""

import pytest

from hpctrain.errors import UserError
from hpctrain.storage.run_state import Submission
from hpctrain.storage.search import find, locate, runs


@pytest.fixture
def two(tmp_path):
    """Two runs of study s, the second one newer by name and number of its job."""
    made = [locate(str(tmp_path), "s", name) for name in ("lenet-27ab", "lenet-9c00")]
    for run in made:
        run.create({})
    return made


@pytest.mark.parametrize(("text", "index"), [("lenet-27ab", 0), ("lenet-2", 0), ("9c", 1), ("lenet-9c00", 1)])
def test_a_run_is_named_by_its_id_or_a_part_of_it(tmp_path, two, text, index):
    assert find(str(tmp_path), text).path == two[index].path


def test_a_number_is_a_job_before_it_is_a_part_of_an_id(tmp_path, two):
    assert find(str(tmp_path), "27").path == two[0].path
    two[1].submission.write(Submission(job_ids=("27",)))
    assert find(str(tmp_path), "27").path == two[1].path


@pytest.mark.parametrize(
    ("text", "why"),
    [("lenet", "fits 2 runs: s/lenet-27ab, s/lenet-9c00"), ("lennet-27ab", "did you mean lenet-27ab")],
)
def test_a_text_that_does_not_name_one_run_is_refused(tmp_path, two, text, why):
    with pytest.raises(UserError, match=why):
        find(str(tmp_path), text)


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\nb", "\u202e", "\udcff"])
@pytest.mark.parametrize("level", ["study", "run"])
def test_a_name_with_a_control_character_is_left_out_and_said(tmp_path, two, name, level):
    folder = tmp_path / ("s" if level == "run" else name) / (name if level == "run" else "r")
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("{}")
    told = []
    assert [run.run_id for run in runs(tmp_path, say=told.append)] == ["lenet-27ab", "lenet-9c00"]
    (words,) = told
    assert words.endswith(f"{name!a} is left out: its name holds a control character")
    with pytest.raises(UserError, match="no such run"):
        find(str(tmp_path), str(folder))


def test_a_closed_root_is_not_said_to_be_empty(tmp_path, monkeypatch):
    monkeypatch.setattr("hpctrain.storage.search.os.access", lambda *_: False)
    with pytest.raises(UserError, match=f"run.root={tmp_path}: {tmp_path} cannot be read: belongs to "):
        find(str(tmp_path), None)


@pytest.mark.parametrize("left", ["config.yaml", "state.json", "submission.json"])
def test_a_run_of_which_a_purge_left_one_file_is_a_run(tmp_path, left):
    for name in ("other", "s/run", "s/no-run"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "s/run" / left).write_text("{}")
    assert [run.path for run in runs(tmp_path)] == [tmp_path / "s/run"]
    for text in (None, "run", str(tmp_path / "s/run")):
        assert find(str(tmp_path), text).path == tmp_path / "s/run"
