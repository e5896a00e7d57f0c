"""A process that dies at any moment of its work on checkpoints loses nothing that it was told is saved.

The attempt under test takes the run over from an earlier one, finds a broken checkpoint, saves twice and
deletes old ones. It is killed at every file-system call, and at random moments; the power fails after every
call, with names and data that no fsync made durable gone, kept, or partly both.
"""

import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hpctrain.checkpoints import saver as checkpoint
from hpctrain.checkpoints import store
from hpctrain.checkpoints.saver import Checkpointer, Snapshot
from hpctrain.config.settings import CheckpointConfig
from hpctrain.storage import lock
from hpctrain.storage.files import Files

CALLS = [name for name in vars(Files) if not name.startswith("_")]
SETTINGS = CheckpointConfig(keep_last=2, keep_best=False)


def make_snapshot(step):
    generator = torch.Generator().manual_seed(step)
    tensors = {f"model/{i}": torch.randn(16, 8, generator=generator) for i in range(3)}
    return Snapshot(tensors, {"step": step, "epoch": 0.0, "samples": step, "world_size": 1})


def prepare(folder):
    """What an earlier attempt left: steps 10 and 20, a broken 25 and half a draft."""
    with lock.acquire(folder, 1) as term:
        saver = Checkpointer(folder, SETTINGS, 1, 1e6, term)
        saver.restore()
        for step in (10, 20, 25):
            saver.save(make_snapshot(step))
        saver.finish()
        (folder / store.entries(folder)[-1].name / "meta.json").write_text("{")
        (folder / ".draft.1-4").mkdir()
        (folder / ".draft.1-4" / "tensors.safetensors").write_bytes(b"half")


def scenario(folder, files, acknowledge, ranks=1):
    """The attempt under test; `acknowledge(step)` where the checkpointer says that a step is on disk."""
    with lock.acquire(folder, 2, files=files) as term:
        savers = [
            Checkpointer(folder, SETTINGS, 2, 1e6, None if rank else term, rank, ranks, files)
            for rank in range(ranks)
        ]
        acknowledge(savers[0].restore().meta["step"])
        for step in (30, 40):
            for saver in savers:
                saver.save(make_snapshot(step))
            for saver in savers:
                saver.wait()
            acknowledge(step)


def recover(folder, acknowledged):
    """The next attempt gets the last acknowledged state or a later one, whole, and can go on."""
    with lock.acquire(folder, 3) as term:
        saver = Checkpointer(folder, SETTINGS, 3, 1e6, term)
        found = saver.restore()
        step = found.meta["step"]
        assert step >= acknowledged
        for name, tensor in make_snapshot(step).tensors.items():
            assert torch.equal(found.tensors[name], tensor)
        saver.save(make_snapshot(step + 1))
        saver.finish()
        assert store.entries(folder)[-1].step == step + 1
        assert not list(folder.glob(".draft.*"))


class Dying(Files):
    """Kills its process at the n-th call; a write stops half-way."""

    def __init__(self, at):
        self.calls, self.at = 0, at

    def _dying(name):
        def call(self, *arguments):
            self.calls += 1
            if self.calls == self.at:
                if name == "write":
                    os.write(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return getattr(Files, name)(self, *arguments)

        return call

    for _name in CALLS:
        locals()[_name] = _dying(_name)


def in_child(work):
    """Start `work(acknowledge)` in a forked process; gives its pid, what hears it speak, and what its last word was."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work(lambda step: os.write(write_end, f"{step} ".encode()))
        finally:
            os._exit(0)
    os.close(write_end)
    words = []

    def hear(times):
        """Wait until it has acknowledged so often."""
        while sum(word.count(b" ") for word in words) < times and (word := os.read(read_end, 4096)):
            words.append(word)

    def end():
        """Whether it was killed, and the last step it acknowledged."""
        _, status = os.waitpid(pid, 0)
        with os.fdopen(read_end, "rb") as pipe:
            said = b"".join([*words, pipe.read()])
        return os.WIFSIGNALED(status), max(map(int, said.split()), default=0)

    return pid, hear, end


def kill_at_each_call(folder, ranks=1):
    """Gives the number of calls of the scenario, each of which was a process's last.

    More than one rank: they write one checkpoint together, here in one process.
    """
    store.CHUNK_BYTES = 512  # several writes a file
    checkpoint.DIVIDE_BYTES, checkpoint.WHOLE_BYTES = 1, 1
    prepare(folder / "base")
    at, killed = 0, True
    while killed:
        at += 1
        shutil.copytree(folder / "base", folder / "now")
        _, _, end = in_child(lambda say, at=at: scenario(folder / "now", Dying(at), say, ranks))
        killed, acknowledged = end()
        recover(folder / "now", max(20, acknowledged))
        shutil.rmtree(folder / "now")
    assert acknowledged == 40
    return at - 1


def kill_at_random(folder, times):
    """Kill processes that save without a pause, each where the last one left off. Gives the last step.

    Every other one is killed a moment after it has saved a few steps, the rest at any moment from their start.
    """

    def work(attempt, say):
        with lock.acquire(folder, attempt) as term:
            saver = Checkpointer(folder, SETTINGS, attempt, 1e6, term)
            found = saver.restore()
            step = found.meta["step"] if found else 0
            say(step)
            while True:
                step += 1
                saver.save(make_snapshot(step))
                saver.wait()
                say(step)

    generator, reached = random.Random(0), 0
    for attempt in range(1, times + 1):
        pid, hear, end = in_child(functools.partial(work, attempt))
        if attempt % 2:
            hear(4)  # where it goes on, and three steps more
        time.sleep(generator.uniform(0.0, 0.1))
        os.kill(pid, signal.SIGKILL)
        reached = max(reached, end()[1])
        newest = max(store.entries(folder), default=None)
        assert reached == 0 or newest.step >= reached
    recover(folder, reached)
    return reached


class Recording(Files):
    """Does what it is asked, and notes each call for `Disk`."""

    def __init__(self):
        self.log, self._paths = [], {}

    def create(self, path):
        handle = super().create(path)
        self._paths[handle] = path
        self.log.append(("create", path))
        return handle

    def write(self, handle, data):
        super().write(handle, data)
        self.log.append(("write", self._paths[handle], bytes(data)))

    def sync(self, handle):
        super().sync(handle)
        self.log.append(("sync", self._paths[handle]))

    def make_folder(self, path):
        if not path.exists():
            self.log.append(("make_folder", path))
        super().make_folder(path)

    def sync_folder(self, path):
        super().sync_folder(path)
        self.log.append(("sync_folder", path))

    def rename(self, old, new):
        super().rename(old, new)
        self.log.append(("rename", old, new))

    def link(self, old, new):
        self.log.append(("link", old, new))
        return super().link(old, new)

    def remove(self, path):
        super().remove(path)
        self.log.append(("remove", path))

    def remove_folder(self, path):
        super().remove_folder(path)
        self.log.append(("remove", path))


class Disk:
    """A file system that keeps only what fsync was asked to keep, and of the rest what it likes.

    A folder is a dict of names to nodes with a list of changes that no fsync has made durable yet; a file
    is its bytes and how many of them are durable. Names change in order, each change whole or not at all.
    """

    class Folder:
        def __init__(self):
            self.now, self.kept, self.pending = {}, {}, []

    class File:
        def __init__(self, data=b""):
            self.data, self.durable = data, len(data)

    def __init__(self, root):
        self.root, self.top = root, self.load(root)

    def load(self, path):
        if path.is_file():
            return self.File(path.read_bytes())
        folder = self.Folder()
        folder.now = {child.name: self.load(child) for child in path.iterdir()}
        folder.kept = dict(folder.now)
        return folder

    def at(self, path):
        node = self.top
        for name in path.relative_to(self.root).parts:
            node = node.now[name]
        return node

    def apply(self, kind, path, *rest):
        if kind == "write":
            self.at(path).data += rest[0]
        elif kind == "sync":
            self.at(path).durable = len(self.at(path).data)
        elif kind == "sync_folder":
            folder = self.at(path) if path.is_relative_to(self.root) else self.Folder()
            folder.kept, folder.pending = dict(folder.now), []
        else:
            parent = self.at(path.parent)
            node = {"create": self.File, "make_folder": self.Folder}.get(
                kind, lambda: parent.now[path.name]
            )()
            change = (kind, path.name, rest[0].name if rest else None, node)
            self.change(parent.now, *change)
            parent.pending.append(change)

    @staticmethod
    def change(names, kind, name, other, node):
        if kind in ("create", "make_folder"):
            names[name] = node
        elif kind == "link":
            names[other] = node
        elif kind == "rename" and names.get(name) is node:
            names[other] = names.pop(name)
        elif kind == "remove":
            names.pop(name, None)

    def after_power_failure(self, node, place, likes):
        """Write what is left to `place`; `likes()`: keep this change, or this much of the data, 0 to 1?"""
        if isinstance(node, self.File):
            extra = round(likes() * (len(node.data) - node.durable))
            place.write_bytes(node.data[: node.durable + extra])
            return
        place.mkdir(0o700)
        names = dict(node.kept)
        for change in node.pending:
            if likes() >= 0.5:
                self.change(names, *change)
        for name, child in names.items():
            self.after_power_failure(child, place / name, likes)


def power_failures(folder, samples):
    """The power fails after each call, in `samples` ways of forgetting; gives the number of failures."""
    store.CHUNK_BYTES = 512
    prepare(folder / "base")
    shutil.copytree(folder / "base", folder / "now")
    files = Recording()
    scenario(folder / "now", files, lambda step: files.log.append(("acknowledge", step)))
    shutil.rmtree(folder / "now")
    generator = random.Random(0)
    ways = [lambda: 0, lambda: 1, *[generator.random] * samples]
    shutil.copytree(folder / "base", folder / "now")
    disk, acknowledged, failures = Disk(folder / "now"), 20, 0
    for call in files.log:
        if call[0] == "acknowledge":
            acknowledged = call[1]
            continue
        disk.apply(*call)
        for likes in ways:
            disk.after_power_failure(disk.top, folder / "left", likes)
            lock.unlock(folder / "left")  # the machine has started again: its processes are gone
            recover(folder / "left", acknowledged)
            shutil.rmtree(folder / "left")
            failures += 1
    return failures


def run_alone(tmp_path, *arguments):
    """This file as a program: it forks, which a process that has run torch's threads should not."""
    tmp_path.chmod(0o700)
    command = [sys.executable, __file__, str(tmp_path), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr + done.stdout
    return int(done.stdout.splitlines()[-1])


def test_killed_at_each_call_nothing_is_lost(tmp_path):
    assert run_alone(tmp_path, "kill_at_each_call") > 75


def test_killed_at_each_call_of_a_write_by_two_ranks_nothing_is_lost(tmp_path):
    assert run_alone(tmp_path, "kill_at_each_call", 2) > 100


def test_killed_at_random_nothing_is_lost(tmp_path):
    assert run_alone(tmp_path, "kill_at_random", 20) > 20


@pytest.mark.long
def test_killed_at_random_many_times_nothing_is_lost(tmp_path):
    assert run_alone(tmp_path, "kill_at_random", 500) > 500


def test_power_failure_after_each_call_loses_nothing(tmp_path):
    assert run_alone(tmp_path, "power_failures", 1) > 200


@pytest.mark.long
def test_power_failure_in_many_ways_loses_nothing(tmp_path):
    assert run_alone(tmp_path, "power_failures", 20) > 1500


if __name__ == "__main__":
    os.umask(0o077)
    torch.set_num_threads(1)
    print(globals()[sys.argv[2]](Path(sys.argv[1]), *map(int, sys.argv[3:])))
