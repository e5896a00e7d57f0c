"""A random walk of users and faults over three runs and a study on a real cluster, and what must hold after each step.

A walk is a list of steps, made from a seed; each step is the name of an action and a number that the action chooses
by. `Walk.play` does the steps and asserts after each; a run that is done is compared with one that nobody disturbed,
removed, and may be submitted again, so that there is always something at work. `minimal` drops steps from a walk that
failed for as long as the rest still fails. `python -m tests.slurm.walk SEED STEPS` plays one on a cluster of its own;
with `uncompared` behind it, without the undisturbed runs.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.slurm.conftest import PATIENCE_S, Cluster
from tests.small_disk import Disk, small_disk
from tests.waiting import until

FINAL = frozenset({"done", "failed", "cancelled", "interrupted"})
STUDY = "sweep"
SETTINGS = (
    "lenet_digits", "model=custom", "model.target=slow_network:SlowNetwork", "cluster=devcluster", "resources.nodes=2",
    "resources.gpus_per_node=1", "train.batch_size=8", "train.steps=60", "train.log_every=10", "checkpoint.every=10",
    "data.validation_limit=20", "+model.pause_s=0.05", "comm.timeout_s=30",
)  # fmt: skip
ONE_RANK = ("resources.nodes=1", "train.batch_size=16", "train.steps=30")
SEEDS = (1, 2, 3)
LEARNING_RATES = "optimizer.lr=0.05,0.06"
WORDS = {0, 1, 2, 130}  # what a command may answer; a traceback or an internal error is never among its words
SMALL_FILES = ("state.json", "submission.json", "attempts/*/rank_0.json", "identity.json", "pause.json")
DAMAGES = (b"", b"{", b"[1, 2]", b'{"phase": 5, "job_ids": "x"}', b"\xff\xfe\x00")


class Wrong(AssertionError):
    """What must hold did not, after so many steps."""

    def __init__(self, steps, what):
        super().__init__(f"after {len(steps)} steps, {steps[-1]}: {what}")
        self.steps = steps


def steps_of(seed, count):
    """Returns the steps of a walk: names of actions, each as often as its weight says, with a number each."""
    choose = random.Random(seed)
    names = [name for name, weight in WEIGHTS.items() for _ in range(weight)]
    return [(choose.choice(names), choose.randrange(10**6)) for _ in range(count)]


class Walk:
    """One walk: the cluster, the runs' root, and what has been seen so far."""

    def __init__(self, cluster, root, undisturbed=None):
        self.cluster, self.root, self.undisturbed = cluster, root, undisturbed
        self.steps_saved, self.cut, self.stopped, self.away = {}, set(), set(), False
        self.polls = self.false_ends = self.equal = 0

    def play(self, steps):
        """Does the steps, then heals everything and finishes the runs. Raises Wrong."""
        done = []
        for name, number in steps:
            done.append((name, number))
            try:
                getattr(self, name)(number)
                self.look()
            except AssertionError as error:
                self.heal()
                raise Wrong(done, error) from error
        self.heal()
        self.finish()

    # --- What users do.

    def submit(self, number):
        """A run, new or not."""
        self.hpctrain("submit", *SETTINGS, f"seed={SEEDS[number % 3]}", f"run.name=run{number % 3}")

    def submit_twice(self, number):
        """From two terminals at once."""
        line = [*SETTINGS, f"seed={SEEDS[number % 3]}", f"run.name=run{number % 3}", f"run.root={self.root}"]
        calls = [self.start("submit", *line) for _ in range(2)]
        for call in calls:
            self.answer(call)

    def resume(self, number):
        """A run that there is."""
        if run := self.pick(number):
            self.hpctrain("resume", run.name, "--study", run.parent.name)

    def cancel(self, number):
        """A run; whatever of it lives is gone soon after, unless Slurm is away."""
        run = self.pick(number)
        if run is None:
            return
        code = self.hpctrain("cancel", run.name, "--study", run.parent.name)
        if code == 0 and not self.away and run.parent.name != STUDY:
            until(lambda: not self.living(run.name), lambda: f"cancelled {run.name}: {self.jobs()}", 120)

    def sweep(self, number):
        """The study, begun or completed."""
        self.hpctrain("sweep", *SETTINGS, *ONE_RANK, LEARNING_RATES, f"run.study={STUDY}", "sweep.jobs=1")

    def cancel_study(self, number):
        """All of the study."""
        self.hpctrain("cancel", "--study", STUDY)

    def clear_up(self, number):
        """What is done is compared and removed, so that it may begin anew."""
        rows = self.status()
        for run in self.runs():
            done = rows.get(run.name) == "done" and not self.away and not self.living(run.name)
            if done and run.parent.name != STUDY:
                self.compare(run)
                shutil.rmtree(run)
                self.steps_saved.pop(run.name, None)

    # --- What happens to them.

    def kill_rank(self, number):
        """kill -9 of one rank."""
        ranks = self.ranks()
        if ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(ranks[number % len(ranks)], signal.SIGKILL)

    def kill_job(self, number):
        """kill -9 of all of a job."""
        if job := self.any_job(number):
            self.slurm("scancel", "--full", "--signal=KILL", job)

    def requeue_job(self, number):
        """By an admin."""
        if job := self.any_job(number):
            self.slurm("scontrol", "requeue", job)

    def scancel_job(self, number):
        """By a user who does without hpctrain."""
        if job := self.any_job(number):
            self.slurm("scancel", job)

    def node(self, number):
        """A node loses its power, or has it again."""
        name = f"node{number % 4 + 1}"
        if name in self.stopped:
            self.cluster.script("start", "node", name)
            self.stopped.discard(name)
        elif len(self.stopped | self.cut) < 2 and name not in self.cut:
            self.cluster.script("stop", "node", name)
            self.stopped.add(name)

    def link(self, number):
        """A node's link is cut, or mended."""
        name = f"node{number % 4 + 1}"
        if name in self.cut:
            self.mend(name)
        elif len(self.stopped | self.cut) < 2 and name not in self.stopped:
            self.cluster.link(name, "down")
            self.cut.add(name)

    def mend(self, name):
        """A new start of the node: what ran on it, cut off from the rest, has been seen as lost."""
        self.cluster.link(name, "up")
        self.cluster.script("stop", "node", name)
        self.cluster.script("start", "node", name)
        self.cut.discard(name)

    def slurmctld(self, number):
        """The controller goes, or comes back."""
        self.cluster.script(*(("start", "slurmctld") if self.away else ("stop", "slurmctld", "--kill")))
        self.away = not self.away

    def disk(self, number):
        """Full for two seconds."""
        disk = Disk(self.root.parent)
        disk.fill()
        time.sleep(2)
        disk.free()

    def damage(self, number):
        """A small file of a run that nobody is at work on, but for its queue, is cut short or overwritten."""
        run = self.pick(number)
        if run is None:
            return
        files = [path for pattern in SMALL_FILES for path in sorted(run.glob(pattern))]
        if files:
            files[number % len(files)].write_bytes(DAMAGES[number % len(DAMAGES)])

    def garbage(self, number):
        """At the end of the records."""
        run = self.pick(number)
        if run is not None and (run / "metrics.jsonl").exists():
            with (run / "metrics.jsonl").open("ab") as file:
                file.write(DAMAGES[number % len(DAMAGES)])

    def wait(self, number):
        """The queue moves on."""
        time.sleep(1 + number % 4)

    # --- What must hold.

    def look(self):
        """After each step: at most one job of a run lives, and what lives has not ended for good."""
        rows = self.status()
        if self.away:
            return
        for run in self.runs():
            if run.parent.name == STUDY:
                continue
            living = self.living(run.name)
            assert len(living) <= 1, f"{run.name} has {len(living)} jobs: {living}"
            if living and rows.get(run.name) in FINAL:
                # A job may outlive its run by its batch shell's last words.
                mended = lambda run=run: (  # noqa: E731
                    not self.living(run.name) or self.status().get(run.name) not in FINAL
                )
                try:
                    until(mended, patience_s=45)
                except AssertionError:
                    self.false_ends += 1
                    raise AssertionError(f"{run.name} is {rows[run.name]} while {living} lives") from None
            saved = self.newest_step(run)
            before = self.steps_saved.get(run.name, 0)
            assert saved >= before, f"{run.name} had a checkpoint at step {before}, and now {saved}"
            self.steps_saved[run.name] = saved

    def status(self):
        """Returns the phase of each run by its id."""
        call = self.start("status", "--root", self.root, "--json")
        out, err = call.communicate(timeout=PATIENCE_S)
        assert call.returncode == 0, err
        self.polls += 1
        return {row["run"]: row["phase"] for row in json.loads(out)}

    def heal(self):
        """Everything runs again."""
        if self.away:
            self.slurmctld(0)
        for name in sorted(self.cut):
            self.mend(name)
        for name in sorted(self.stopped):
            self.cluster.script("start", "node", name)
        self.stopped.clear()
        idle = lambda: len(self.slurm("sinfo", "-h", "-Nh", "-plow", "-tidle,alloc,mix", "-o%N").split()) == 4  # noqa: E731
        until(idle, "all nodes to be back")

    def finish(self):
        """Resumes what is not done until all is, and compares it."""
        for run in self.runs():
            if run.parent.name == STUDY:
                if self.status()[run.name] == "done":
                    self.compare(run)
                continue
            for _ in range(8):
                if (
                    until(
                        lambda run=run: self.settled(run), lambda run=run: f"{run.name} to end: {self.jobs()}"
                    )
                    == "done"
                ):
                    break
                assert self.hpctrain("resume", run.name, "--study", run.parent.name) == 0
            assert self.status()[run.name] == "done", f"{run.name} is {self.status()[run.name]}"
            self.compare(run)

    def weights(self, run):
        """Returns the tensors of a run's newest checkpoint by name."""
        from safetensors.torch import load_file

        return load_file(max(run.glob("checkpoints/step_*")) / "tensors.safetensors")

    def compare(self, run):
        """Asserts that a run that is done has the weights of the same run undisturbed, to the bit."""
        if self.undisturbed is None:
            return
        import torch

        expected, actual = self.undisturbed[run.name], self.weights(run)
        assert expected.keys() == actual.keys(), run.name
        differ = [name for name, tensor in expected.items() if not torch.equal(tensor, actual[name])]
        assert not differ, f"{run.name} is done, and differs from the undisturbed run in {differ}"
        self.equal += 1

    def complete(self, number):
        """Waits until all runs, the study's as well, are done."""
        until(
            lambda: set(self.status().values()) == {"done"} and not self.jobs(),
            lambda: f"all to end: {self.jobs()}",
        )

    def settled(self, run):
        """Returns the phase of a run that has ended and has no job any more; else None."""
        phase = self.status().get(run.name)
        return phase if phase in FINAL and not self.living(run.name) else None

    # --- Means.

    def start(self, *words):
        line = [sys.executable, "-m", "hpctrain.cli", *map(str, words)]
        return subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.cluster.environment
        )

    def answer(self, call):
        out, err = call.communicate(timeout=PATIENCE_S)
        words = f"{' '.join(call.args[3:])}: exit {call.returncode}: {out}{err}"
        assert call.returncode in WORDS, words
        assert "Traceback" not in words, words
        assert "internal error" not in words, words
        return call.returncode

    def hpctrain(self, command, *words):
        root = f"run.root={self.root}" if command in ("submit", "sweep") else f"--root={self.root}"
        return self.answer(self.start(command, *words, root))

    def slurm(self, *command):
        done = subprocess.run(command, capture_output=True, text=True, env=self.cluster.environment)
        return done.stdout

    def runs(self):
        return sorted(path.parent for path in self.root.glob("*/*/config.yaml"))

    def pick(self, number):
        runs = self.runs()
        return runs[number % len(runs)] if runs else None

    def jobs(self):
        """All jobs in the queue: id, state, comment."""
        return [
            line.split("|", 2)
            for line in self.slurm("squeue", "-h", "--all", "--array", "-o%i|%T|%k").splitlines()
        ]

    def living(self, run_id):
        """Jobs of a run that wait or run; one that is only being cleared away does not count."""
        return [
            job for job, state, comment in self.jobs() if f":{run_id}:" in comment and state != "COMPLETING"
        ]

    def any_job(self, number):
        jobs = [] if self.away else self.jobs()
        return jobs[number % len(jobs)][0] if jobs else None

    def ranks(self):
        """Processes that train."""
        found = []
        for path in self.root.glob("*/*/attempts/*/rank_*.json"):
            with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
                who = json.loads(path.read_text())
                if who["outcome"] == "running" and Path(f"/proc/{who['pid']}").exists():
                    found.append(who["pid"])
        return sorted(found)

    @staticmethod
    def newest_step(run):
        names = [path.name.split(".")[0] for path in run.glob("checkpoints/step_*")]
        return max((int(name.removeprefix("step_")) for name in names if name[5:].isdigit()), default=0)


WEIGHTS = {
    "submit": 8, "submit_twice": 2, "resume": 8, "cancel": 4, "sweep": 3, "cancel_study": 1, "clear_up": 4,
    "kill_rank": 4, "kill_job": 3, "requeue_job": 3, "scancel_job": 2, "node": 2, "link": 1, "slurmctld": 3, "disk": 1,
    "damage": 3, "garbage": 1, "wait": 12,
}  # fmt: skip


def minimal(steps, fails, tries=12):
    """Returns a shorter walk for which `fails(steps)` is true as well, found in at most `tries` plays."""
    size = max(1, len(steps) // 2)
    while tries > 0:
        for first in range(0, len(steps), size):
            shorter = steps[:first] + steps[first + size :]
            tries -= 1
            if shorter and fails(shorter):
                steps = shorter
                break
            if tries <= 0:
                return steps
        else:
            if size == 1:
                return steps
            size //= 2
    return steps


@contextlib.contextmanager
def cluster_with_small_disk(name, size="600m"):
    """A cluster whose nodes see a small file system for the runs: yields it and the folder."""
    cluster = Cluster(name, Path("/var/tmp") / f"hpctrain-{name}")
    place = Path("/var/tmp") / f"hpctrain-{name}.disk"
    with small_disk(place, size):
        try:
            cluster.script("up", "--slurmd-timeout-s", "5", "--kill-wait-s", "10")
            yield cluster, place
        finally:
            cluster.script("down")
    place.rmdir()


def main(seed, count, compared=True):
    """Plays one walk, and before it the same runs undisturbed if it is `compared`.

    Prints the seed, a minimal sequence if it fails, and how often status was asked.
    """
    with cluster_with_small_disk(f"walk{os.getpid()}") as (cluster, disk):
        turn = iter(range(10**6))

        def play(steps, undisturbed=None):
            root = disk / f"runs{next(turn)}"
            root.mkdir()
            walk = Walk(cluster, root, undisturbed)
            try:
                walk.play(steps)
                return walk, {run.name: walk.weights(run) for run in walk.runs()}
            finally:
                cluster.call("scancel", "--user=root")
                until(lambda: not cluster.call("squeue", "--noheader"), "the queue to empty")
                shutil.rmtree(root)

        def fails(steps):
            try:
                play(steps, undisturbed)
            except AssertionError:
                return True
            return False

        undisturbed = None
        if compared:
            _, undisturbed = play([*(("submit", n) for n in range(3)), ("sweep", 0), ("complete", 0)])
        try:
            walk, _ = play(steps_of(seed, count), undisturbed)
        except Wrong as wrong:
            print(f"seed {seed}: {wrong}", flush=True)
            print(f"minimal: {minimal(wrong.steps, fails)}", flush=True)
            return 1
        print(
            f"seed {seed}: {count} steps, {walk.polls} polls, {walk.false_ends} false ends, "
            f"{walk.equal} comparisons bitwise equal",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), "uncompared" not in sys.argv[3:]))
