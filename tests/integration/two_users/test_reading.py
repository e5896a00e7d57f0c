"""Reading another's runs and studies obeys nothing that they say, and writes nothing there: attacks by alice."""

import json

import pytest

from hpctrain.storage import lock
from tests.people import ALICE, alices_run, plant, trial


def test_a_run_s_slurm_conf_is_not_the_reader_s(alice, reader, shared):
    alices_run(alice, shared, slurm_conf="/tmp/evil/slurm.conf")
    for words in (["status"], ["status", "run-1"], ["logs", "run-1"]):
        reader.hpctrain(*words, "--root", shared)
    reader.hpctrain("cancel", "run-1", "--root", shared, code=1)
    assert "evil" not in reader.slurm()
    assert "scancel" not in reader.slurm()


def test_a_study_s_slurm_conf_is_not_the_reader_s(alice, reader, shared):
    part = {
        "on_slurm": True,
        "slurm_conf": "/tmp/evil/slurm.conf",
        "trials": [trial("one")],
        "path": "",
        "comment": "",
    }
    plant(shared / "alices", alice, **{".study__parts__1.json": part})
    out, _ = reader.hpctrain("status", "--root", shared, "--json")
    assert [row["run"] for row in json.loads(out)] == ["one"], "what may be read is shown"
    reader.hpctrain("status", "--study", "alices", "--root", shared)
    _, err = reader.hpctrain("cancel", "--study", "alices", "--root", shared, code=1)
    assert "not yours to cancel" in err
    reader.hpctrain("sweep", "--unlock", "alices", "--root", shared, code=2)
    assert reader.slurm() == ""


@pytest.mark.parametrize("job_id", ["--user=bob", "-ubob", "7 8", "7,8", "7\n", "٧"])
def test_job_ids_are_no_options_even_in_a_file_of_ones_own(bob, place, job_id):
    root = place / "own"
    run = root / "study" / "run-1"
    run.mkdir(parents=True)
    bob.give(root)
    plant(run, bob, **{"config.yaml": "{}", "state.json": {"phase": "running"},
                       "submission.json": {"cluster": "karolina", "job_ids": [job_id], "path": str(run)}})  # fmt: skip
    bob.give(root)
    bob.hpctrain("cancel", "run-1", "--root", root, code=1)
    assert "scancel" not in bob.slurm()
    assert job_id not in bob.slurm()


@pytest.mark.parametrize("of_run", [True, False], ids=["run", "study"])
def test_cancelling_signals_no_process_that_another_names(alice, reader, shared, of_run):
    victim = reader.start("-c", "import time; time.sleep(60)")
    owner = vars(lock.process(victim.pid))
    if of_run:
        who = {k: owner[k] for k in ("host", "pid", "boot", "started")} | {"rank": 0, "outcome": "running"}
        run = alices_run(alice, shared, cluster="local", job_ids=[])
        plant(run, alice, **{"attempts__1__rank_0.json": who, "attempts__1__token": "t"})
    else:
        part = {"on_slurm": False, "slurm_conf": None, "trials": [trial("one")]}
        job = {"job_id": None, "lanes": 1, "began": 0, "until": None, "owner": owner, "seen": 0}
        plant(shared / "alices", alice, **{".study__parts__1.json": part, ".study__jobs__t.json": job})
    word = ["run-1"] if of_run else ["--study", "alices"]
    _, err = reader.hpctrain("cancel", *word, "--root", shared, code=1)
    assert "not yours to cancel" in err
    assert victim.poll() is None
    victim.kill()
    victim.communicate()


def test_reading_writes_nothing_into_another_s_run(alice, reader, shared):
    run = alices_run(alice, shared)
    plant(run, alice, **{"state.json": {"phase": "running", "heartbeat": 1.0}})
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    reader.hpctrain("status", "--root", shared)
    reader.hpctrain("cancel", "run-1", "--root", shared, code=1)
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before


def test_another_s_run_is_not_resumed_nor_written_to(alice, reader, shared):
    run = alices_run(alice, shared)
    before = sorted(run.rglob("*"))
    _, err = reader.hpctrain("resume", "run-1", "--root", shared, code=2)
    assert f"belongs to uid {ALICE}" in err
    assert sorted(run.rglob("*")) == before


def test_code_that_another_s_run_names_is_not_run(alice, reader, shared):
    run = alices_run(alice, shared)
    code, marker = alice.home / "code", reader.home / "marker"
    code.mkdir()
    (code / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    model = {"name": "custom", "target": "evil:Net", "target_folder": str(code)}
    plant(run, alice, **{"config.yaml": json.dumps({"model": model})})
    plant(run, alice, checkpoints__none="")
    _, err = reader.hpctrain("generate", "run-1", "--root", shared, "--prompt", "x", code=2)
    assert "is not believed" in err
    assert not marker.exists()


def trained(person, root):
    """A run that `person` has trained for a step, for all to read."""
    words = ["lenet_digits", "train.epochs=null", "train.steps=1", "data.train_limit=8", "data.validation_limit=4",
             "train.batch_size=4", f"run.root={root}", "run.study=hers"]  # fmt: skip
    person.hpctrain("train", *words, umask=0o022)
    (run,) = (root / "hers").glob("*/config.yaml")
    for path in (root / "hers", *(root / "hers").rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return run.parent


MODULES = (
    "monkeytype",
    "opt_einsum",
    "pynvml",
    "pydot",
    "torchcomms",
    "IPython",
    "winreg",
)  # looked for, not there


def test_modules_beside_another_s_run_are_not_found(alice, reader, shared):
    """Modules that PyTorch looks for and that nobody has installed, in the folder that her run names."""
    run = trained(alice, shared)
    code, marker = alice.home / "code", reader.home / "marker"
    code.mkdir()
    for name in MODULES:
        (code / f"{name}.py").write_text(f"open({str(marker)!r}, 'a').write({name!r})")
    written = run / "config.yaml"
    written.write_text(written.read_text().replace("model:\n", f"model:\n  target_folder: {code}\n", 1))
    out = reader.home / "weights.pt"
    reader.hpctrain("export", run.name, "--root", shared, "--format", "torchscript", "--output", out)
    reader.hpctrain("report", "hers", "--root", shared)
    reader.hpctrain("checkpoints", run.name, "--root", shared, "--verify")
    assert out.exists()
    assert not marker.exists()
    before = {p: p.stat().st_mtime_ns for p in (shared / "hers").rglob("*")}
    assert not [p for p in before if p.name == "report.html"], "nothing is written into another's study"
