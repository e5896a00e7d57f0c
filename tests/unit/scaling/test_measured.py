"""scaling.json, as `hpctrain scale` leaves it and as anything may have happened to it."""

import json

import pytest

from hpctrain import cli
from hpctrain.errors import Damaged, UserError
from hpctrain.scaling import measured
from hpctrain.scaling.comm_settings import CommSetting
from tests.damages import DAMAGES

pytestmark = pytest.mark.usefixtures("at_once")

FACTS = {
    "mode": "strong", "warmup_windows": 2, "cluster": "c", "epochs": 1, "train_samples": None, "command": "",
    "config": {"a": [1, None]}, "settings": {"gpus": [1, 2]}, "experiment": "lenet on digits",
}  # fmt: skip
RUN = {"run": "lenet-1", "gpus": 2, "nodes": 1, "repeat": 0, "data": "own", "batch": 64, "knob": None}


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "runs" / "s"
    made.mkdir(parents=True)
    return made


def test_a_plan_there_and_back(study):
    assert not measured.is_scaling(study)
    assert measured.warmup_windows(study) == 1
    with pytest.raises(UserError, match="is not a scaling study"):
        measured.read_plan(study)
    tried = [RUN | {"run": f"lenet-{n}", "knob": CommSetting("bucket_mb", n)} for n in (2, 3)]
    measured.write_plan(study, FACTS, [RUN, tried[0]])
    measured.write_plan(study, FACTS | {"warmup_windows": 3}, [tried[0], tried[1]])
    assert measured.is_scaling(study)
    assert measured.warmup_windows(study) == 3
    assert measured.read_plan(study) == FACTS | {"warmup_windows": 3, "runs": [RUN, *tried]}
    with pytest.raises(UserError, match="study s is strong"):
        measured.write_plan(study, FACTS | {"mode": "weak"}, [RUN])


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_plan_is_named_in_one_line_and_not_written_over(study, capsys, damage):
    path = study / measured.PLAN
    DAMAGES[damage](path)
    before = path.lstat()
    assert cli.main(["report", "s"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"hpctrain: {path} is damaged (")
    assert (said.out, len(said.err.splitlines())) == ("", 1)
    with pytest.raises(Damaged):
        measured.write_plan(study, FACTS, [RUN])
    assert (path.lstat().st_ino, path.lstat().st_mtime) == (before.st_ino, before.st_mtime)
    run = study.parent / "other" / "lenet-7"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("{}")
    assert cli.main(["status", "--json"]) == 0
    assert [row["run"] for row in json.loads(capsys.readouterr().out)] == ["lenet-7"]
