"""What two users of one machine see of each other's folders, and what they can put in each other's way."""

import json
import os

import pytest

from tests.people import ALICE, BOB
from tests.waiting import until


@pytest.mark.parametrize("how", ["train", "submit"])
def test_modules_of_the_working_directory_run_nowhere(alice, bob, place, how):
    """A colleague's pydantic.py, a researcher's own profile.py and datasets.py."""
    here, marker = place / "here", bob.home / "marker"
    here.mkdir()
    here.chmod(0o777)
    for name in ("pydantic", "numpy", "torch", "submitit", "profile", "datasets", "hpctrain_x"):
        (here / f"{name}.py").write_text(f"open({str(marker)!r}, 'w'); raise SystemExit(3)")
    settings = ["lenet_digits", "cluster=local", "train.epochs=null", "train.steps=1", "data.train_limit=20",
                "data.validation_limit=10", "train.batch_size=4", f"run.root={bob.home}/runs"]  # fmt: skip
    bob.hpctrain(how, *settings, cwd=here)
    (run,) = (bob.home / "runs").glob("*/*/state.json")
    phase = lambda: json.loads(run.read_text())["phase"]  # noqa: E731
    until(lambda: phase() in ("done", "failed"), "the run's end", patience_s=100)
    assert phase() == "done"
    assert not marker.exists()


def test_each_sees_what_the_modes_allow_and_hears_of_the_rest(alice, bob, shared):
    hers, his = alice.makes_run(shared, "hers"), bob.makes_run(shared, "his")
    out, err = alice.hpctrain("status", "--root", shared, "--json")
    assert [row["run"] for row in json.loads(out)] == [hers.name]
    assert f"{his.parent} cannot be read: belongs to uid {BOB}" in err
    _, err = alice.hpctrain("report", "his", "--root", shared, code=2)
    assert f"belongs to uid {BOB}" in err


def test_a_study_of_another_is_named_and_left_alone(alice, bob, shared):
    alice.makes_run(shared, "default")
    _, err = bob.hpctrain("submit", "lenet_digits", "cluster=local", f"run.root={shared}", code=2)
    assert f"belongs to uid {ALICE}" in err
    assert "run.study" in err


def test_the_root_that_hpctrain_makes_is_its_user_s_alone(bob, place):
    place.chmod(0o777)
    run = bob.makes_run(place / "new" / "runs", umask=0o000)
    modes = {folder.stat().st_mode & 0o777 for folder in (run, *list(run.parents)[:3])}
    assert modes == {0o700}


def test_a_root_that_a_group_may_change_is_said(alice, bob, shared):
    words = ["lenet_digits", "cluster=local", f"run.root={shared}", "run.study=his", "train.epochs=null",
             "train.steps=1", "data.train_limit=8", "data.validation_limit=4", "train.batch_size=4"]  # fmt: skip
    _, err = bob.hpctrain("submit", *words)
    assert (
        f"run.root={shared}: members of its group may rename and remove your studies there (mode 2775)" in err
    )
    out, _ = bob.hpctrain("doctor", "cluster=local", f"run.root={shared}", code=1)
    assert "chmod +t" in out
    assert shared.stat().st_mode & 0o7777 == 0o2775, "looking at a folder leaves its mode alone"
    shared.chmod(0o3775)
    _, err = bob.hpctrain("submit", *words)
    assert "members of its group" not in err
    out, _ = bob.hpctrain("doctor", "cluster=local", f"run.root={shared}", code=0)
    assert "chmod +t" not in out


def test_doctor_goes_through_no_link_of_another(alice, bob, shared):
    """Her root has the folders and files of a test job already, as links to bob's."""
    precious = bob.home / "precious"
    precious.mkdir()
    (precious / "job.sbatch").write_text("bob's own")
    for path in (precious, precious / "job.sbatch"):
        bob.give(path)
    hers = shared / "runs"
    hers.mkdir()
    hers.chmod(0o777)
    alice.give(hers)
    for name in (".doctor.x", "submitit", "job.sbatch", "rank_0.json"):
        (hers / name).symlink_to(precious)
        os.chown(hers / name, ALICE, ALICE, follow_symlinks=False)
    bob.start("-m", "hpctrain.cli", "doctor", "cluster=karolina", f"run.root={hers}").communicate(timeout=60)
    assert sorted(path.name for path in precious.iterdir()) == ["job.sbatch"]
    assert (precious / "job.sbatch").read_text() == "bob's own"


@pytest.mark.parametrize(
    "setting", ["model.name=../../../x", "data.name=../../x", "run.study=../x", "run.name=../x"]
)
def test_nothing_of_a_configuration_leads_out_of_the_root(bob, place, setting):
    before = sorted(place.rglob("*"))
    (bob.home / "net.py").write_text("from torch.nn import Linear as Net")
    words = ["model=custom", "model.target=net:Net", "data=digits", setting, f"run.root={bob.home}/runs"]
    _, err = bob.hpctrain("train", *words, code=2)
    assert err.startswith(f"hpctrain: {setting.partition('=')[0]}=")
    assert "letters, digits" in err
    (bob.home / "net.py").unlink()
    assert sorted(place.rglob("*")) == before
