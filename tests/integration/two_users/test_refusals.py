"""What a machine may refuse when a run is submitted: one line, an exit code of 1 or 2, and nothing is left behind."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.people import BOB, Person
from tests.small_disk import small_disk

WORDS = ["lenet_digits", "cluster=local", "train.epochs=null", "train.steps=1", "data.train_limit=8",
         "data.validation_limit=4", "train.batch_size=4"]  # fmt: skip
COMMANDS = [["submit"], ["submit", "--json"], ["train"], ["sweep"]]


def refused(process, *said):
    out, err = process.communicate(timeout=120)
    told = f"{process.args}\n{process.returncode}\n{out}\n{err}"
    assert process.returncode in (1, 2), told
    assert "Traceback" not in out + err, told
    assert "internal error" not in err, told
    lines = [line for line in err.splitlines() if line.startswith("hpctrain: ")]
    assert len(lines) == 1, told
    assert all(text in lines[0] for text in said), told


def settings(command):
    return [*command, *WORDS, *(["seed=1,2"] if command == ["sweep"] else [])]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_full_disk(place, command):
    bob = Person(place, BOB)
    with small_disk(place / "disk") as disk:
        os.chown(place / "disk", BOB, BOB)
        disk.fill()
        disk.rest()
        refused(
            bob.start("-m", "hpctrain.cli", *settings(command), f"run.root={place}/disk/runs"),
            "DISK_FULL",
            "disk",
        )
        assert not list((place / "disk").rglob("config.yaml"))


@pytest.mark.parametrize(
    ("command", "mode"), [*((command, 0o555) for command in COMMANDS), (["submit"], 0o000)]
)
def test_no_permission(place, command, mode):
    bob = Person(place, BOB)
    (place / "runs").mkdir()
    (place / "runs").chmod(mode)
    refused(
        bob.start("-m", "hpctrain.cli", *settings(command), f"run.root={place}/runs"),
        "run.root=",
        "Permission denied",
    )
    assert not list((place / "runs").iterdir())


def test_a_folder_of_runs_that_is_a_file(place):
    bob = Person(place, BOB)
    (place / "runs").write_text("")
    for command in COMMANDS:
        refused(bob.start("-m", "hpctrain.cli", *settings(command), f"run.root={place}/runs"), "run.root=")


@pytest.mark.parametrize(
    "command", ["submit", "train", "sweep", "status", "flops", "report", "doctor", "models"]
)
def test_a_deleted_working_directory(tmp_path, command):
    gone = tmp_path / "gone"
    script = f"import os, shutil, sys; os.mkdir({str(gone)!r}); os.chdir({str(gone)!r}); shutil.rmtree({str(gone)!r})\n"
    script += "from hpctrain import cli; sys.exit(cli.main(sys.argv[1:]))"
    line = [
        sys.executable,
        "-P",
        "-c",
        script,
        command,
        *(["lenet_digits"] if command in ("submit", "train") else []),
    ]
    refused(subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True), "was deleted")


def test_a_user_without_an_entry_in_passwd_and_without_a_home(place):
    """On a compute node's container a user is a number."""
    bob = Person(place, BOB)
    shutil.rmtree(bob.home)
    (place / "runs").mkdir()
    os.chown(place / "runs", BOB, BOB)
    done = bob.start("-m", "hpctrain.cli", "submit", *WORDS, f"run.root={place}/runs", cwd=place / "runs")
    out, err = done.communicate(timeout=120)
    assert done.returncode == 0, err
    assert "submitted as job" in out


@pytest.mark.parametrize(
    ("recipe", "key"), [("char_lstm_python data=text", "data.path"), ("lenet_digits", "model.weights")]
)
@pytest.mark.parametrize("name", ["file", "closed/file"])
def test_files_of_another_user(place, recipe, key, name):
    bob, given = Person(place, BOB), place / name
    (place / "closed").mkdir(mode=0o700)
    given.write_text("text\n" * 1000)
    given.chmod(0o600)
    whose = f"{key}={given}: cannot be read: " + (f"the folder {given.parent} " if "/" in name else "")
    _, err = bob.hpctrain("train", *recipe.split(), f"{key}={given}", code=2)
    assert f"{whose}belongs to root (mode 0{'7' if '/' in name else '6'}00)" in err
    assert not (bob.home / "runs").exists()


def test_a_root_of_another_user(place):
    (place / "runs").mkdir(mode=0o700)
    _, err = Person(place, BOB).hpctrain("status", "--root", place / "runs", code=2)
    assert f"run.root={place}/runs: {place}/runs cannot be read: belongs to root" in err


@pytest.mark.parametrize("closed", [".study", ".study/parts"])
def test_a_study_whose_records_are_another_user_s(place, closed):
    (place / "runs" / "s" / closed).mkdir(parents=True)
    (place / "runs" / "s" / closed).chmod(0o700)
    bob = Person(place, BOB)
    for command in (["report", "s"], ["status", "--study", "s"]):
        _, err = bob.hpctrain(*command, "--root", place / "runs", code=2)
        assert f"run.study=s: {place}/runs/s/{closed} cannot be read: belongs to root" in err
