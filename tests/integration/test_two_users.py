"""What one user can do to another on a shared machine: each test is an attack, by alice on bob or on root.

Both users are real (setpriv), without an entry in passwd. Needs root.
"""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hpctrain.storage import lock
from tests.waiting import until

CHECKOUT = Path(__file__).parents[2]
TEAM = 61300
ALICE, BOB, ROOT = 61301, 61302, 0


PACKAGES = next(p for p in sys.path if p.endswith("site-packages"))


def _python():
    """An interpreter that every user may start, with the packages of this one; setpriv itself starts it with more."""
    as_user = ["setpriv", f"--reuid={BOB}", f"--regid={BOB}", "--clear-groups", "sh", "-c"]
    environment = os.environ | {"PYTHONPATH": f"{CHECKOUT}:{PACKAGES}"}
    for candidate in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        command = [*as_user, '"$0" -P -c "import hpctrain.cli, omegaconf"', candidate]
        if subprocess.run(command, capture_output=True, env=environment, cwd="/").returncode == 0:
            return candidate
    return None


PYTHON = _python() if os.geteuid() == 0 and shutil.which("setpriv") else None
pytestmark = pytest.mark.skipif(
    PYTHON is None, reason="needs root, setpriv, and a checkout and an interpreter that all users may read"
)


class Person:
    """A user with a home and a PATH with recording Slurm clients, at work in `place`."""

    def __init__(self, place, uid):
        self.uid, self.home, self.tools = uid, place / f"home{uid}", place / "tools"
        self.home.mkdir(mode=0o755)
        self.calls = self.home / "calls"
        self.give(self.home)

    def give(self, *paths):
        for path in paths:
            os.chown(path, self.uid, self.uid if self.uid else TEAM)
        return paths[0]

    def start(self, *command, cwd=None, umask=0o022):
        environment = {
            "PATH": f"{self.tools}:{os.environ['PATH']}", "HOME": str(self.home), "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{CHECKOUT}:{PACKAGES}", "CALLS": str(self.calls), "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        who = ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", f"--groups={TEAM}"]
        return subprocess.Popen(
            [*who, PYTHON, "-P", *map(str, command)],
            cwd=cwd or self.home, env=environment, text=True, umask=umask,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def python(self, *command, code=0, **how):
        process = self.start(*command, **how)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, f"exit {process.returncode}, not {code}\n{out}\n{err}"
        assert "Traceback" not in err
        return out, err

    def hpctrain(self, *words, **how):
        return self.python("-m", "hpctrain.cli", *words, **how)

    def slurm(self):
        return self.calls.read_text() if self.calls.exists() else ""

    def makes_run(self, root, study="study", **how):
        script = (
            "import sys; from hpctrain.data.derive import load; from hpctrain.launch.prepare import prepare\n"
            "print(prepare(load(['lenet_digits', *sys.argv[1:]])).path)"
        )
        return Path(self.python("-c", script, f"run.root={root}", f"run.study={study}", **how)[0].strip())


@pytest.fixture
def place():
    """A folder that everybody may enter; pytest's own are root's alone. What a test writes there, all may read."""
    before = os.umask(0o022)
    folder = Path(tempfile.mkdtemp(prefix="two-users."))
    folder.chmod(0o755)
    (folder / "tools").mkdir(mode=0o755)
    for name in ("squeue", "sacct", "scancel", "sbatch", "scontrol", "sdiag"):
        tool = folder / "tools" / name
        tool.write_text(f'#!/bin/sh\necho "{name} $SLURM_CONF $*" >> "$CALLS"\n')
        tool.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
    os.umask(before)


@pytest.fixture
def alice(place):
    return Person(place, ALICE)


@pytest.fixture
def bob(place):
    return Person(place, BOB)


@pytest.fixture(params=[BOB, ROOT], ids=["bob", "root"])
def reader(request, place):
    return Person(place, request.param)


@pytest.fixture
def shared(place):
    """run.root of a team: the group may write there."""
    folder = place / "runs"
    folder.mkdir()
    os.chown(folder, ROOT, TEAM)
    folder.chmod(0o2775)
    return folder


def plant(run, person, **files):
    """Has `person` write files of a run, for all to read."""
    for name, values in files.items():
        path = run / name.replace("__", "/")
        for folder in reversed([p for p in path.parents if p.is_relative_to(run.parent)]):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)
            person.give(folder)
        path.write_text(values if isinstance(values, str) else json.dumps(values))
        person.give(path)
        path.chmod(0o644)


def alices_run(alice, shared, **submission):
    run = shared / "alices" / "run-1"
    run.mkdir(parents=True)
    job = {"cluster": "karolina", "job_ids": ["7"], "token": "t", "path": str(run)} | submission
    plant(run, alice, **{"config.yaml": "{}", "state.json": {"phase": "running"}, "submission.json": job})
    return run


def evil(marker):
    """A pickle that leaves a mark if anybody loads it."""

    class Mark:
        def __reduce__(self):
            return os.system, (f"id -u >> {marker}",)

    return pickle.dumps(Mark())


# 1: reading


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
    out, _ = reader.hpctrain("cancel", "--study", "alices", "--root", shared, code=1)
    assert "not yours to cancel" in out
    reader.hpctrain("sweep", "--unlock", "alices", "--root", shared, code=2)
    assert reader.slurm() == ""


def trial(name):
    return {"run_id": name, "overrides": [], "params": {}, "config": {}}


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
    out, _ = reader.hpctrain("cancel", *word, "--root", shared, code=1)
    assert "not yours to cancel" in out
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


# 2: a job runs only what its submitter wrote


@pytest.fixture
def job(bob, shared):
    """Bob's submitted job, as a folder of submitit's: what it calls writes who ran it."""
    run = bob.makes_run(shared)
    (run / "submitit").mkdir(mode=0o700)
    script = (
        "import os, sys; from submitit.core.utils import DelayedSubmission\n"
        "os.umask(0o077); delayed = DelayedSubmission(os.system, f'echo bob >> {sys.argv[2]}')\n"
        "delayed.set_timeout(1, 1); delayed.dump(sys.argv[1])"
    )
    bob.give(run / "submitit")
    bob.python("-c", script, run / "submitit" / "run.pkl", bob.home / "ran")
    (run / "submitit" / "5_submitted.pkl").symlink_to("run.pkl")
    return run / "submitit"


BEGIN = (
    "import os, sys; os.environ |= {'SUBMITIT_EXECUTOR': 'local', 'SUBMITIT_LOCAL_JOB_ID': '5',"
    " 'SUBMITIT_LOCAL_GLOBALID': '0'}\n"
    "from hpctrain.scheduler import checked\n"
)


def begin(bob, job, before="", code=0):
    script = f"{BEGIN}{before}\nsys.exit(checked.main())"
    return bob.start("-c", script, job, cwd="/").communicate(timeout=60)[1]


def ran(bob):
    return (bob.home / "ran").read_text() if (bob.home / "ran").exists() else None


def test_a_job_runs_its_submitter_s_pickle(bob, job):
    begin(bob, job)
    assert ran(bob) == "bob\n"


def test_a_planted_pickle_would_leave_its_mark(bob):
    (bob.home / "evil.pkl").write_bytes(evil(bob.home / "marker"))
    bob.python("-c", "import pickle; pickle.load(open('evil.pkl', 'rb'))")
    assert (bob.home / "marker").exists()


def replaced_study(alice, job, marker):
    """Alice puts a study of hers in the place of bob's: the group may rename in run.root."""
    study = job.parents[1]
    away = study.with_name("away")
    study.rename(away)
    shutil.copytree(away, study, symlinks=True)
    (study / job.parent.name / "submitit" / "run.pkl").write_bytes(evil(marker))
    for path in (study, *study.rglob("*")):
        os.chown(path, ALICE, ALICE, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(0o755)


def linked_study(alice, job, marker):
    replaced_study(alice, job, marker)
    study = job.parents[1]
    study.rename(study.with_name("hers"))
    study.symlink_to("hers")


def open_folder(alice, job, marker):
    """Bob's own mistake: the group may write where his pickle is."""
    job.chmod(0o770)
    os.chown(job, BOB, TEAM)
    (job / "run.pkl").unlink()
    (job / "run.pkl").write_bytes(evil(marker))
    os.chown(job / "run.pkl", ALICE, ALICE)


def open_pickle(alice, job, marker):
    (job / "run.pkl").write_bytes(evil(marker))
    (job / "run.pkl").chmod(0o666)


def pickle_elsewhere(alice, job, marker):
    hers = alice.home / "evil.pkl"
    hers.write_bytes(evil(marker))
    (job / "5_submitted.pkl").unlink()
    (job / "5_submitted.pkl").symlink_to(hers)


@pytest.mark.parametrize("attack", [replaced_study, linked_study, open_folder, open_pickle, pickle_elsewhere])
def test_a_pickle_that_others_could_have_put_there_is_not_loaded(alice, bob, job, attack):
    marker = bob.home / "marker"
    attack(alice, job, marker)
    said = begin(bob, job)
    assert "the job is not run" in said
    assert not marker.exists()
    assert ran(bob) is None


@pytest.mark.parametrize(
    ("attack", "phase"), [(open_folder, "failed"), (replaced_study, "submitted"), (linked_study, "submitted")]
)
def test_a_run_whose_job_is_refused_says_so_if_its_folders_are_its_user_s(alice, bob, job, attack, phase):
    """What alice put in its place keeps what stands in it: nothing is written there."""
    (job.parent / "state.json").write_text(json.dumps({"phase": "submitted"}))
    bob.give(job.parent / "state.json")
    attack(alice, job, bob.home / "marker")
    begin(bob, job)
    state = json.loads((job.parent / "state.json").read_text())
    assert state["phase"] == phase
    assert ("the job is not run" in state.get("detail", "")) == (phase == "failed")


SWAP = """
looked, study = checked._look_at, "{study}"
def swapped(*given):
    looked(*given)
    os.rename(study, study + "2")
    os.rename(os.path.dirname(study) + "/hers", study)
checked._look_at = swapped
"""


def test_a_folder_that_is_swapped_after_the_look_is_not_seen(alice, bob, job):
    marker = bob.home / "marker"
    replaced_study(alice, job, marker)
    study = job.parents[1]
    study.rename(study.with_name("hers"))
    study.with_name("away").rename(study)
    swap = SWAP.format(study=str(study))
    begin(bob, job, swap)
    assert study.stat().st_uid == ALICE, "it was swapped"
    assert not marker.exists()
    assert ran(bob) == "bob\n"


def test_a_rank_believes_no_settings_that_others_put_there(alice, bob, job):
    run = job.parent
    replaced_study(alice, job, bob.home / "marker")
    process = bob.start("-m", "hpctrain.training.worker", run, "token")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"uid {ALICE}" in err
    assert not (run / "attempts").exists()


def test_a_run_is_not_started_in_a_folder_that_others_may_write_to(bob, shared):
    run = bob.makes_run(shared)
    run.chmod(0o770)
    _, err = bob.hpctrain(
        "submit", "lenet_digits", "cluster=local", f"run.root={shared}", "run.study=study", code=2
    )
    assert "others may write there (mode 0770)" in err


# 3: the working directory is not on sys.path


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


# 4: two users, one run root, one data folder


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


CONTENT = b"official" * 100
FETCH = (
    "import sys; from pathlib import Path; from hpctrain.data import fetch\n"
    "from hpctrain.data.downloads import RemoteFile, Source\n"
    f"file = RemoteFile('set.bin', {len(CONTENT)}, {hashlib.sha256(CONTENT).hexdigest()!r})\n"
    "fetch.PAUSE_S = 0\n"
    "fetch.fetch(Source('set', 'page', (f'file://{sys.argv[1]}/',), (file,)), Path(sys.argv[2]))"
)


@pytest.fixture
def home(place):
    """The official home of a data set, and the team's folder for it."""
    (place / "home").mkdir(mode=0o755)
    (place / "home" / "set.bin").write_bytes(CONTENT)
    (place / "data").mkdir()
    os.chown(place / "data", ROOT, TEAM)
    (place / "data").chmod(0o2775)
    return place / "home"


@pytest.mark.parametrize("name", [".fetch.lock", "set.bin.part", f"set.bin.{BOB}.part", "set.bin"])
@pytest.mark.parametrize("kind", ["link", "hard link"])
def test_fetching_goes_through_no_link(alice, bob, home, name, kind):
    data, precious = home.parent / "data", bob.home / "precious"
    precious.write_text("bob's own")
    bob.give(precious)
    if kind == "link":
        (data / name).symlink_to(precious)
        os.chown(data / name, ALICE, ALICE, follow_symlinks=False)
    else:
        os.link(precious, data / name)
    process = bob.start("-c", FETCH, home, data)
    process.communicate(timeout=60)
    assert precious.read_text() == "bob's own"
    if name != ".fetch.lock":
        assert (data / "set.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_two_users_fetch_into_one_folder(alice, bob, home, umask):
    data = home.parent / "data"
    alice.python("-c", FETCH, home, data, umask=umask)
    (data / f"set.bin.{ALICE}.part").write_bytes(b"broken off")
    os.chown(data / f"set.bin.{ALICE}.part", ALICE, ALICE)
    bob.python("-c", FETCH, home, data)
    bob.python("-c", f"assert open({str(data / 'set.bin')!r}, 'rb').read() == {CONTENT!r}")


def test_two_users_fetch_at_once(alice, bob, home):
    data = home.parent / "data"
    both = [person.start("-c", FETCH, home, data) for person in (alice, bob)]
    said = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert (data / "set.bin").read_bytes() == CONTENT


# 7: names


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


# 1 again: the other commands that read


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


# 4 again: caches of two users

CACHES = {
    "tokens": "from hpctrain.data.text import tokens; tokens.load(config.data).train[0]",
    "contents": "from hpctrain.data import contents; contents.of_data(config.data)",
    "speech": (
        "from hpctrain.data.speech import source; folder = source.spoken(config.data)\n"
        "assert [path.read_bytes() for path in folder.rglob('*') if path.is_file()]"
    ),
    "flops": "from hpctrain.flops import known; known.counted('lenet', config.model.settings, 7)",
}
WORDS = {
    "tokens": ["model=lstm", "task=language_model", "data=text", "data.tokens=character"],
    "contents": ["model=lstm", "task=language_model", "data=text", "data.tokens=character"],
    "speech": ["deep_speech_digits", "data.train_limit=2", "data.validation_limit=1"],
    "flops": ["lenet_digits"],
}
USE = "import sys; from hpctrain.data.derive import load; config = load(sys.argv[1:])\n"


def uses(person, cache, kind, text):
    words = [*WORDS[kind], *([f"data.path={text}"] if kind in ("tokens", "contents") else [])]
    script = (
        f"import os; os.environ |= {{'HPCTRAIN_CACHE': {str(cache)!r}, 'XDG_CACHE_HOME': {str(cache)!r}}}\n"
    )
    person.python("-c", f"{script}{USE}{CACHES[kind]}", *words, umask=0o022)


@pytest.fixture
def cache(place):
    """A cache of the team, and a text."""
    (place / "cache").mkdir()
    os.chown(place / "cache", ROOT, TEAM)
    (place / "cache").chmod(0o2775)
    (place / "text.txt").write_text("some words of a text\n" * 200)
    return place / "cache"


@pytest.mark.parametrize("kind", CACHES)
def test_two_users_share_a_cache(alice, bob, cache, kind):
    if kind == "speech" and shutil.which("espeak-ng") is None:
        pytest.skip("needs espeak-ng")
    for person in (alice, bob, alice):
        uses(person, cache, kind, cache.parent / "text.txt")


@pytest.mark.parametrize("kind", CACHES)
def test_a_cache_is_written_through_no_link(alice, bob, cache, kind):
    """Every file that bob's first use makes is there already, as alice's link to a file of his."""
    if kind == "speech" and shutil.which("espeak-ng") is None:
        pytest.skip("needs espeak-ng")
    text, precious = cache.parent / "text.txt", bob.home / "precious"
    precious.write_text("bob's own")
    bob.give(precious)
    uses(bob, cache, kind, text)
    files = [path for path in cache.rglob("*") if path.is_file()]
    assert files
    for path in (*cache.rglob("*"), cache):
        os.chown(path, ALICE, TEAM)
        path.chmod(0o2775 if path.is_dir() else 0o664)
    for path in files:
        path.unlink()
        path.symlink_to(precious)
        os.chown(path, ALICE, ALICE, follow_symlinks=False)
    script = f"{text}"
    words = [*WORDS[kind], *([f"data.path={script}"] if kind in ("tokens", "contents") else [])]
    before = (
        f"import os; os.environ |= {{'HPCTRAIN_CACHE': {str(cache)!r}, 'XDG_CACHE_HOME': {str(cache)!r}}}\n"
    )
    bob.start("-c", f"{before}{USE}{CACHES[kind]}", *words).communicate(timeout=120)
    assert precious.read_text() == "bob's own"
