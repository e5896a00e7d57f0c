"""`hpctrain status` of a run that has failed, from its files."""

import json
import os
import signal
import subprocess
import sys

import pytest

from hpctrain import cli
from hpctrain.scheduler import client
from hpctrain.storage import lock
from hpctrain.storage.run_dir import RunDir


def test_status_explains_a_run_alone(failed, capsys):
    assert cli.main(["status"]) == 0
    out = capsys.readouterr().out
    assert "rank 0 was killed" in out
    assert "  | out of memory" in out
    assert cli.main(["status", "other", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["key"] == "run"


def test_a_run_is_named_by_its_path_as_elsewhere(failed, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    assert cli.main(["status", str(failed.path)]) == 0
    assert failed.run_id in capsys.readouterr().out


class TestNeverStarted:
    """A worker was killed between the making of a run's folder and its start."""

    @pytest.fixture
    def new(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        run = RunDir(tmp_path / "runs" / "default" / "net-0123456789")
        run.create({})
        os.utime(run.config_file, (0, 0))
        run.start_folder.mkdir()
        signal.alarm(60)  # a watch that does not end
        yield run
        signal.alarm(0)

    def look(self, capsys, *flags):
        assert cli.main(["status", "--json", *flags]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        return row["phase"], row["detail"]

    WAITS = ("new", "was never started, and nobody is known to start it: hpctrain resume net-0123456789")

    def test_a_watch_ends_with_what_is_known(self, new, capsys):
        assert self.look(capsys, "--watch") == self.WAITS

    def test_one_whose_starter_was_killed_waits_for_a_resume(self, new, capsys):
        code = "import sys, os, pathlib\nfrom hpctrain.storage import lock\n"
        code += "lock.acquire(pathlib.Path(sys.argv[1]), 0)\nos.kill(os.getpid(), 9)"
        subprocess.run([sys.executable, "-c", code, str(new.start_folder)], check=False)
        assert lock.last_owner(new.start_folder).ended is False
        assert self.look(capsys, "--watch") == self.WAITS

    def test_one_that_somebody_is_about_to_start_does_not(self, new, capsys):
        with lock.acquire(new.start_folder, 0):
            assert self.look(capsys) == ("new", None)
        os.utime(new.config_file)
        assert self.look(capsys) == ("new", None), "it was made just now"

    @pytest.mark.parametrize(("ended", "detail"), [(True, WAITS[1]), (False, None), (None, WAITS[1])])
    def test_of_a_starter_in_a_job_slurm_is_asked(self, new, capsys, monkeypatch, ended, detail):
        lock.acquire(new.start_folder, 0)._write(boot="another", machine="another", host="n1", job_id="7")
        monkeypatch.setattr(client, "has_ended", lambda job_id, conf: ended if job_id == "7" else None)
        assert self.look(capsys) == ("new", detail)
