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


@pytest.mark.parametrize("left", ["config.yaml", "state.json", "submission.json"])
def test_a_run_of_which_a_purge_left_one_file_is_a_run(tmp_path, left):
    for name in ("other", "s/run", "s/no-run"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "s/run" / left).write_text("{}")
    assert [run.path for run in runs(tmp_path)] == [tmp_path / "s/run"]
    for text in (None, "run", str(tmp_path / "s/run")):
        assert find(str(tmp_path), text).path == tmp_path / "s/run"
