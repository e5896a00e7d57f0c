"""The real cluster of these tests: brought up once a session, under a name of its own, and taken down after it."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import until

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "slurm" / "devcluster"
STUDY_PATIENCE_S = 150
PATIENCE_S = 240  # far more than anything takes: a test that waits so long has found a fault


def without_sacct(folder):
    """A PATH on which Slurm's other commands are."""
    tools = folder / "tools"
    tools.mkdir()
    for name in ("sbatch", "squeue", "scancel", "scontrol", "srun"):
        (tools / name).symlink_to(shutil.which(name))
    return f"{tools}:{Path(sys.executable).parent}"


class Cluster:
    """A development cluster by name, and hpctrain as its client."""

    def __init__(self, name, folder):
        self.name, self.folder = name, folder
        self.conf = folder / "slurm.conf"
        self.environment = os.environ | {
            "SLURM_CONF": str(self.conf),
            "PYTHONPATH": f"{Path(__file__).parent}:{ROOT}",
        }

    def line(self, command, *args):
        """The command line of the development cluster's script."""
        return [sys.executable, SCRIPT, command, "--name", self.name, "--dir", self.folder, *args]

    def script(self, command, *args, code=0):
        line = self.line(command, *args)
        done = subprocess.run(line, capture_output=True, text=True)
        assert done.returncode == code, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def link(self, node, side):
        """Cuts a node's links (`down`) or mends them (`up`)."""
        names = "ip -o link | sed 's/^[0-9]*: //; s/[@:].*//' | grep -vx lo"
        links = f"set -e; for link in $({names}); do ip link set $link {side}; done"
        self.script("exec", "--node", node, "--", "sh", "-c", links)

    def call(self, *command):
        """A Slurm client's output."""
        return subprocess.run(
            command, capture_output=True, text=True, check=True, env=self.environment
        ).stdout.strip()

    def hpctrain(self, *args, code=0, stream=None, **environment):
        """Its output: what it said on stdout, or on stderr where it failed or was silent on stdout."""
        line = [sys.executable, "-m", "hpctrain.cli", *map(str, args)]
        done = subprocess.run(
            line, capture_output=True, text=True, env=self.environment | environment, timeout=PATIENCE_S
        )
        assert done.returncode == code, f"exit {done.returncode}: {line}\n{done.stdout}\n{done.stderr}"
        return done.stdout if stream == "stdout" or code == 0 else done.stderr

    def set(self, **settings):
        """Change lines of slurm.conf on the running cluster."""
        lines = [line for line in self.conf.read_text().splitlines() if line.split("=")[0] not in settings]
        new = [f"{key}={value}" for key, value in settings.items() if value is not None]
        self.conf.write_text("\n".join([*new, *lines]) + "\n")
        self.call("scontrol", "reconfigure")


class Run:
    """One run on the cluster, in a root of its own."""

    def __init__(self, cluster, root, *settings):
        self.cluster, self.root = cluster, root
        self.settings = (
            "lenet_digits", "model=custom", "model.target=slow_network:SlowNetwork", "cluster=devcluster",
            "resources.nodes=2", "resources.gpus_per_node=1", "train.batch_size=8", "train.steps=100",
            "train.log_every=10", "checkpoint.every=10", "data.validation_limit=20", f"run.root={root}", *settings,
        )  # fmt: skip

    def submit(self, *args, code=0, **environment):
        out = self.cluster.hpctrain("submit", *self.settings, *args, "--json", code=code, **environment)
        return json.loads(out) if code == 0 else out

    @property
    def path(self):
        (config,) = self.root.glob("*/*/config.yaml")
        return config.parent

    @property
    def state(self):
        return json.loads((self.path / "state.json").read_text())

    @property
    def job_ids(self):
        return json.loads((self.path / "submission.json").read_text())["job_ids"]

    def status(self, **environment):
        (row,) = json.loads(self.cluster.hpctrain("status", "--root", self.root, "--json", **environment))
        return row

    def await_step(self, step, attempt=1):
        """Until the given attempt has gone beyond a step, with its checkpoint on disk."""
        until(
            lambda: self.state.get("attempt") == attempt and self.state.get("step", 0) >= step,
            f"step {step} of attempt {attempt}: {self.state}\n{self.logs()}",
        )

    def await_end(self, phase, reason):
        """Until status says that the run has ended; asserts how."""
        final = ("done", "failed", "cancelled", "interrupted")
        row = until(lambda: (row := self.status())["phase"] in final and row, f"an end\n{self.logs()}")
        assert (row["phase"], row["reason"]) == (phase, reason), f"{row}\n{self.logs()}"
        return row

    def logs(self):
        files = [*self.root.glob("*/*/attempts/*/rank_*.log"), *self.root.glob("*/*/submitit/*.out")]
        return "\n".join(f"== {file}\n{file.read_text()[-2000:]}" for file in files)

    def hosts(self, attempt):
        return {
            json.loads(file.read_text())["host"]: json.loads(file.read_text())["pid"]
            for file in self.path.glob(f"attempts/{attempt}/rank_*.json")
        }

    def tensors(self):
        from safetensors.torch import load_file

        (last,) = self.path.glob("checkpoints/step_*0100.*")
        return load_file(last / "tensors.safetensors")


class Study:
    """A study of tiny runs: perceptrons on 64 digits, one rank each, on one fake GPU each."""

    def __init__(self, cluster, root, name="s", *settings):
        self.cluster, self.root, self.name = cluster, root, name
        self.path = root / name
        self.settings = (
            "experiment=lenet_digits", "model=perceptron", "data.train_limit=64", "data.validation_limit=32",
            "train.batch_size=16", "cluster=devcluster", "resources.gpus_per_node=1", "resources.threads_per_rank=1",
            f"run.root={root}", f"run.study={name}", *settings,
        )  # fmt: skip

    def sweep(self, *words, code=0, **environment):
        out = self.cluster.hpctrain("sweep", *self.settings, *words, "--json", code=code, **environment)
        return json.loads(out) if code == 0 else out

    def report(self, *args):
        out = self.cluster.hpctrain("report", self.name, "--root", self.root, "--json", *args)
        return json.loads(out[out.index("{") :])

    def status(self):
        out = self.cluster.hpctrain("status", "--root", self.root, "--study", self.name, "--json")
        return {row["run"]: row for row in json.loads(out)}

    def ended(self):
        files = (self.path / ".study" / "ended").glob("*.json")
        return {file.stem: json.loads(file.read_text()) for file in files}

    def queue(self):
        return self.cluster.call("squeue", "--noheader", "--array", "--format=%i %T").split("\n")

    def wait(self, ready, what):
        return until(ready, lambda: f"{what}: {self.queue()}\n{self.logs()}", STUDY_PATIENCE_S, pause_s=0.3)

    def wait_for_end(self):
        self.wait(lambda: self.queue() == [""], "an empty queue")

    def logs(self):
        files = [
            *(self.path / ".study" / "submitit").glob("*.out"),
            *self.path.glob("*/attempts/*/rank_0.log"),
        ]
        return "\n".join(f"== {file}\n{file.read_text()[-1500:]}" for file in files[:12])

    def workers(self):
        """The processes of the study's jobs, on whatever node: all nodes share this machine's process table."""
        found = []
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                line = file.read_bytes()
                if (
                    str(self.path / ".study" / "submitit").encode() in line
                    and b"python" in line.split(b"\0")[0]
                ):
                    found.append(int(file.parent.name))
        return found


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("the development cluster needs root: namespaces, links and mounts")
    for left in Path("/var/tmp").glob("hpctrain-test*"):  # by a session that was killed
        owner = left.name.removeprefix("hpctrain-test").rstrip("b")
        if not Path(f"/proc/{owner}").exists():
            Cluster(left.name.removeprefix("hpctrain-"), left).script("down")
    name = f"test{os.getpid()}"
    made = Cluster(name, Path("/var/tmp") / f"hpctrain-{name}")
    try:
        made.script("up", "--slurmd-timeout-s", "5", "--kill-wait-s", "10")
        yield made
    finally:
        made.script("down")


@pytest.fixture
def run(cluster, tmp_path):
    """Makes a run; whatever is left of its jobs is cancelled after the test."""
    yield lambda *settings: Run(cluster, tmp_path / "runs", *settings)
    for how in (["--full", "--signal=KILL"], []):
        subprocess.run(["scancel", "--user=root", *how], env=cluster.environment, check=False)
    until(lambda: not cluster.call("squeue", "--noheader"), "the queue to empty")


@pytest.fixture
def study(cluster, tmp_path):
    made = []

    def make(*settings, name="s"):
        made.append(Study(cluster, tmp_path / "runs", name, *settings))
        return made[-1]

    yield make
    subprocess.run(
        ["scancel", "--user=root", "--full", "--signal=KILL"], env=cluster.environment, check=False
    )
    subprocess.run(["scancel", "--user=root"], env=cluster.environment, check=False)
    for one in made:
        one.wait_for_end()


@pytest.fixture(scope="session")
def undisturbed(cluster, tmp_path_factory):
    """The weights of the run that nothing disturbs."""
    calm = Run(cluster, tmp_path_factory.mktemp("calm") / "runs")
    calm.submit()
    calm.await_end("done", "DONE")
    return calm.tensors()


@pytest.fixture
def same_weights(undisturbed):
    import torch

    def check(run):
        tensors = run.tensors()
        assert tensors.keys() == undisturbed.keys()
        for name, value in undisturbed.items():
            assert torch.equal(tensors[name], value), name

    return check
