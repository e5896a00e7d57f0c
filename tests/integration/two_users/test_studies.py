"""Studies and calibrations of another are figures: attacks by alice."""

import os

import pytest

from tests.people import ALICE, evil, plant

SCALING = {
    "mode": "strong", "warmup_windows": 1, "cluster": "karolina", "epochs": 1, "train_samples": 100, "command": "",
    "settings": {}, "experiment": "x", "runs": [{"run": "one", "gpus": 1, "nodes": 1, "batch": 4, "repeat": 0,
                                                 "data": "own"}],
}  # fmt: skip


@pytest.mark.parametrize("conf", ["/tmp/evil/slurm.conf", "/etc/hostname"])
def test_a_scaling_study_s_slurm_conf_and_job_ids_are_not_the_reader_s(alice, reader, shared, conf):
    plan = SCALING | {
        "config": {"cluster": {"slurm_conf": conf}, "model": {"target_folder": str(alice.home)}}
    }
    plant(shared / "hers", alice, **{"scaling.json": plan})
    plant(
        shared / "hers" / "one",
        alice,
        **{"config.yaml": "{}", "state.json": {"phase": "done", "job_id": "7"}},
    )
    for words in (["report", "hers"], ["status", "--study", "hers"]):
        process = reader.start("-m", "hpctrain.cli", *words, "--root", shared)
        _, err = process.communicate(timeout=60)
        assert "Traceback" not in err
        assert "internal error" not in err
    assert "sacct" not in reader.slurm()
    assert conf not in reader.slurm()


def test_a_page_is_written_through_no_link(alice, reader, shared):
    """A study of alice's that is a link to a folder of the reader's."""
    study = reader.home / "study"
    (study / "one").mkdir(parents=True)
    (study / "one" / "config.yaml").write_text("{}")
    (study / "report.html").write_text("the reader's own")
    for path in (study, *study.rglob("*")):
        reader.give(path)
    (shared / "hers").symlink_to(study)
    os.chown(shared / "hers", ALICE, ALICE, follow_symlinks=False)
    reader.start("-m", "hpctrain.cli", "report", "hers", "--root", shared).communicate(timeout=60)
    assert (study / "report.html").read_text() == "the reader's own"


def test_a_study_of_another_is_not_scaled(alice, reader, shared):
    plant(shared / "hers", alice, **{"scaling.json": SCALING | {"config": {}}})
    words = [
        "lenet_digits",
        "cluster=karolina",
        "cluster.account=x",
        "scaling.gpus=8,16",
        f"run.root={shared}",
    ]
    _, err = reader.hpctrain("scale", *words, "run.study=hers", code=2)
    assert f"belongs to uid {ALICE}" in err
    assert "sbatch" not in reader.slurm()


@pytest.mark.parametrize("kind", ["link", "pickle"])
def test_another_s_calibration_is_data(alice, reader, shared, kind):
    secret, marker = reader.home / "secret", reader.home / "marker"
    secret.write_text("the-reader-s-secret")
    secret.chmod(0o600)
    reader.give(secret)
    words = ["lenet_digits", "cluster=karolina", "cluster.account=x", "scaling=weak", "scaling.gpus=8"]
    find = (
        "import sys; from hpctrain.scaling import plan, start; from hpctrain.data.identify import run_id\n"
        "config, settings = start.load(sys.argv[1:])\n"
        "print(*[f'{one.run.study}/{run_id(one)}' for one in plan.calibration(config, settings).values()])"
    )
    for name in reader.python("-c", find, *words)[0].split():
        plant(shared / name, alice, **{"config.yaml": "{}"})
        profile = shared / name / "profile.json"
        if kind == "link":
            profile.symlink_to(secret)
        else:
            profile.write_bytes(evil(marker))
    process = reader.start("-m", "hpctrain.cli", "forecast", *words, f"run.root={shared}")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "profile.json" in err
    assert "secret" not in out + err
    assert "Traceback" not in err
    assert not marker.exists()
