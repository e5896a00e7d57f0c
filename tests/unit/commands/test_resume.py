"""`hpctrain resume`: which word is the run, and what is refused before anything is submitted."""

import pytest

from hpctrain import cli
from hpctrain.config.load import to_dict
from hpctrain.data.derive import load
from hpctrain.data.identify import run_id
from hpctrain.storage.run_dir import RunDir


@pytest.fixture
def finished(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load(["lenet_digits"])
    run = RunDir(tmp_path / "runs" / "default" / run_id(config))
    run.create(to_dict(config))
    run.state.beat(phase="done", reason="DONE")
    return run


@pytest.mark.parametrize("named", [True, False])
def test_a_run_that_is_done_is_said_to_be(finished, capsys, named):
    assert cli.main(["resume", *([finished.run_id] if named else [])]) == 0
    assert f"{finished.run_id} is done already" in capsys.readouterr().err


@pytest.mark.parametrize("named", [True, False])
def test_settings_may_follow_the_run_or_stand_alone(finished, capsys, named):
    words = [*([finished.run_id] if named else []), "seed=7"]
    assert cli.main(["resume", *words]) == 2
    err = capsys.readouterr().err
    assert "seed=7" in err
    assert len(err.splitlines()) == 1
    assert not finished.submission_file.exists()
    assert not finished.start_folder.exists()
