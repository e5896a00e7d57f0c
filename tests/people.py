"""Two real users (setpriv), without an entry in passwd, for tests of what one can do to another. Needs root."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
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


def trial(name):
    return {"run_id": name, "overrides": [], "params": {}, "config": {}}


def evil(marker):
    """A pickle that leaves a mark if anybody loads it."""

    class Mark:
        def __reduce__(self):
            return os.system, (f"id -u >> {marker}",)

    return pickle.dumps(Mark())
