"""Commands that look at runs of which a small file is damaged: they name it, and show the others."""

import json
from pathlib import Path

import pytest

from hpctrain import cli
from hpctrain.config.load import to_dict
from hpctrain.data import identify
from hpctrain.data.derive import load
from hpctrain.data.identify import run_id
from hpctrain.errors import RunFailed
from hpctrain.launch.prepare import with_places
from hpctrain.scheduler import client
from hpctrain.scheduler.answers import Job
from hpctrain.storage.folders import absolute
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Submission
from hpctrain.sweep.study_dir import StudyDir
from tests.damages import DAMAGES

pytestmark = pytest.mark.usefixtures("at_once")


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs that are done; the first one's files are damaged by the tests."""
    monkeypatch.chdir(tmp_path)
    made = []
    for seed in (1, 2):
        config = load(["lenet_digits", f"seed={seed}"])
        run = RunDir(tmp_path / "runs" / "default" / run_id(config))
        run.create(to_dict(config))
        identify.note(run, config)
        run.state.beat(phase="done", reason="DONE", step=7, attempt=1)
        made.append(run)
    return made


FILES = ("state.json", "submission.json", "pause.json", "metrics.jsonl", "identity.json", "config.yaml",
         "attempts/1/rank_0.json", "attempts/1/failure.json")  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_no_damage_stops_a_command(runs, capsys, name, damage):
    run, other = runs
    path = run.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    DAMAGES[damage](path)
    for command in (["status"], ["status", run.run_id], ["logs", run.run_id], ["cancel", run.run_id]):
        cli.main(command)
        said = capsys.readouterr()
        assert "internal error" not in said.err
        if command == ["status"]:
            assert other.run_id in said.out
            assert run.run_id in said.out
            if name == "state.json":
                assert f"{run.run_id}: state.json is damaged (" in said.err


def test_a_damaged_state_is_found_again_and_kept(runs, capsys):
    run = runs[0]
    run.attempt(1).mkdir(parents=True)
    run.rank_file(1, 0).write_text('{"rank": 0, "outcome": "DONE"}')
    run.state_file.write_text("{")
    assert cli.main(["status", run.run_id, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["phase"], row["reason"]) == ("done", "DONE")
    assert row["detail"].startswith("state.json is damaged (not JSON")
    assert "damage" not in row
    assert cli.main(["status", run.run_id, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["phase"], row["detail"]) == ("done", None)


@pytest.fixture
def queued(runs, monkeypatch):
    """The first run has a job in a queue, and neither state nor submission tell."""
    run = runs[0]
    config = load(["lenet_digits", "seed=1", "cluster=devcluster"])
    run.config_file.unlink()
    run.create(to_dict(config))
    run.state_file.unlink()
    run.submission_file.write_text("[1, 2")
    run.submitit.mkdir()
    show(monkeypatch, run, run.path)
    return run


def show(monkeypatch, run, folder):
    """Makes the queue have a job of a run of that id in `folder`; None: Slurm does not say where."""
    command = f"{folder}/submitit/submission_file_1.sh" if folder else "(null)"
    jobs = [
        Job("31", "PENDING", "Priority", f"hpctrain:{run.run_id}:abc", run.run_id, command),
        Job("32", "RUNNING"),
    ]
    monkeypatch.setattr(client, "queue", lambda conf=None: {job.job_id: job for job in jobs})
    monkeypatch.setattr(client, "history", lambda ids, conf=None: {})


def test_the_queue_tells_which_jobs_a_run_has_if_its_files_do_not(queued, capsys):
    cli.main(["status", queued.run_id, "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["phase"], row["job_id"]) == ("submitted", "31")
    assert "submission.json is damaged (not JSON" in row["detail"]


def test_no_second_job_is_submitted_beside_one_that_no_file_names(queued, capsys):
    assert cli.main(["resume", queued.run_id]) == 0
    assert "is under way already as job 31" in capsys.readouterr().out


def test_cancel_takes_the_job_that_no_file_names(queued, capsys, monkeypatch):
    taken = []
    monkeypatch.setattr(client, "cancel", lambda ids, conf=None: taken.extend(ids))
    cli.main(["cancel", queued.run_id])
    assert taken == ["31"]


@pytest.mark.parametrize("folder", [None, "gone"])
def test_a_job_of_which_nobody_knows_the_folder_is_left_alone_and_none_is_begun_beside_it(
    queued, capsys, monkeypatch, folder
):
    show(monkeypatch, queued, folder and queued.path.with_name(folder))
    monkeypatch.setattr(client, "cancel", lambda ids, conf=None: pytest.fail("cancelled"))
    cli.main(["status", queued.run_id, "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["phase"], row["job_id"], row["scheduler"]) == ("new", "31", "unknown")
    assert row["detail"].startswith(
        "job 31 belongs to a run with this id, and Slurm does not say in which folder"
    )
    assert cli.main(["resume", queued.run_id]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert f"hpctrain checkpoints {queued.run_id} --unlock" in said[0]
    assert cli.main(["cancel", queued.run_id]) == 1
    assert cli.main(["checkpoints", queued.run_id, "--unlock"]) == 0
    capsys.readouterr()
    cli.main(["status", queued.run_id, "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["job_id"], row["scheduler"]) == (None, None)


def test_the_job_of_another_folder_s_run_of_the_same_id_is_nobody_s_here(queued, capsys, monkeypatch):
    other = queued.path.parents[1] / "other" / queued.run_id
    (other / "submitit").mkdir(parents=True)
    show(monkeypatch, queued, other)
    monkeypatch.setattr(client, "cancel", lambda ids, conf=None: pytest.fail("cancelled"))
    cli.main(["status", "--study", queued.study, queued.run_id, "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert row["job_id"] is None
    cli.main(["cancel", "--study", queued.study, queued.run_id])
    assert "31" not in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "\0", "[1]"])
def test_resume_names_a_configuration_that_is_damaged(runs, capsys, text):
    run = runs[0]
    run.state.beat(phase="failed", reason="ERROR")
    run.config_file.write_text(text)
    assert cli.main(["resume", run.run_id]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "config.yaml" in said[0]
    assert "is damaged (" in said[0]


class TestChanged:
    def edit(self, run, old, new):
        text = run.config_file.read_text()
        assert old in text
        run.config_file.write_text(text.replace(old, new, 1))

    @pytest.mark.parametrize("damaged", [False, True])
    def test_science_that_was_edited_is_refused(self, runs, capsys, damaged):
        run = runs[0]
        run.state.beat(phase="failed", reason="ERROR")
        if damaged:
            run.identity_file.write_text("{")
        self.edit(run, "seed: 1", "seed: 5")
        assert cli.main(["resume", run.run_id]) == 2
        assert (
            "identity.json is damaged" if damaged else "seed=5: the run was made with 1"
        ) in capsys.readouterr().err
        with pytest.raises(RunFailed, match=r"^CONFIG_CHANGED"):
            identify.refuse_change_here(run, load(["lenet_digits", "seed=5"]))

    @pytest.mark.parametrize("damaged", [False, True])
    def test_a_neutral_setting_may_be_edited(self, runs, damaged):
        if damaged:
            runs[0].identity_file.write_text("[]")
        identify.refuse_change(runs[0], load(["lenet_digits", "seed=1", "checkpoint.keep_last=9"]))
        identify.refuse_change_here(runs[0], load(["lenet_digits", "seed=1", "train.log_every=3"]))


def test_a_damaged_study_is_named_and_the_others_are_listed(runs, capsys):
    for name in ("a", "b"):
        study = StudyDir(runs[0].path.parents[1] / name)
        study.create()
        (study.folder / "parts" / "1.json").write_text('{"trials": 5}' if name == "a" else "")
    assert cli.main(["status"]) == 0
    said = capsys.readouterr()
    assert runs[1].run_id in said.out
    assert "runs/a/.study/parts/1.json is damaged (" in said.err
    assert "runs/b/.study/parts/1.json is damaged (empty)" in said.err
    assert cli.main(["report", "a"]) == 1
    assert "is damaged" in capsys.readouterr().err


class TestMoved:
    @pytest.fixture
    def moved(self, queued):
        place = queued.path.parents[1]
        queued.submission.write(
            Submission("devcluster", "abc", path=str(queued.path)).with_jobs(
                ["31"], f"hpctrain:{queued.run_id}:abc"
            )
        )
        place.rename(place.with_name("elsewhere"))
        return RunDir(place.with_name("elsewhere") / "default" / queued.run_id)

    def test_status_says_what_to_do(self, moved, capsys):
        cli.main(["status", moved.run_id, "--json", "--root", "elsewhere"])
        (row,) = json.loads(capsys.readouterr().out)
        assert f"moved from {Path.cwd() / 'runs'}" in row["detail"]
        assert "hpctrain cancel" in row["detail"]

    def test_resume_starts_no_second_job(self, moved, capsys):
        assert cli.main(["resume", moved.run_id, "--root", "elsewhere"]) == 2
        assert "moved from" in capsys.readouterr().err

    def test_cancel_takes_the_job(self, moved, monkeypatch):
        taken = []
        monkeypatch.setattr(client, "cancel", lambda ids, conf=None: taken.extend(ids))
        cli.main(["cancel", moved.run_id, "--root", "elsewhere"])
        assert taken == ["31"]


class TestPlaces:
    def test_a_link_is_used_as_given(self, tmp_path, monkeypatch):
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        assert absolute(tmp_path / "link" / "runs") == tmp_path / "link" / "runs"
        monkeypatch.chdir(tmp_path / "link")
        monkeypatch.setenv("PWD", str(tmp_path / "link"))
        assert absolute("runs") == tmp_path / "link" / "runs"
        assert absolute("../runs") == tmp_path / "runs"
        monkeypatch.setenv("PWD", "/usr")  # of a shell that is elsewhere
        assert absolute("runs") == tmp_path / "real" / "runs"

    @pytest.mark.parametrize("root", ["a\nb", "a\x1bb", "100%j", "x/%A/runs"])
    def test_what_slurm_cannot_hold_is_refused(self, root, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        assert cli.main(["submit", "lenet_digits", f"run.root='{root}'"]) == 2
        assert not list(tmp_path.iterdir())

    def test_relative_paths_are_kept_absolute_and_change_no_id(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("PWD")
        (tmp_path / "texts").mkdir()
        (tmp_path / "mine.py").write_text("class Net: ...\n")
        values = {
            "data": {"path": "texts", "source": "org/set"},
            "model": {"weights": "w.pt", "target": "mine:Net"},
        }
        stored = with_places(values)
        assert stored["data"] == {"path": str(tmp_path / "texts"), "source": "org/set"}
        assert stored["model"] == {"weights": "w.pt", "target": "mine:Net", "target_folder": str(tmp_path)}
        assert with_places(stored) == stored
