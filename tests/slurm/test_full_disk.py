"""Jobs of a real Slurm whose runs are on a disk that is really full, for a moment or when they come back, or read-only.

The disk is an image that the host and each node mount: the nodes have mounts of their own.
"""

import subprocess
import time
from pathlib import Path

import pytest

from hpctrain.storage.last_word import exit_code
from tests.small_disk import Disk
from tests.waiting import until

pytestmark = [pytest.mark.slurm, pytest.mark.long]


def nodes(cluster):
    """One process of each node of the cluster."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if Path(words[0]).name == "slurmd" and "-N" in words and str(cluster.folder) in " ".join(words):
            found[words[words.index("-N") + 1]] = path.name
    return list(found.values())


@pytest.fixture
def disk(cluster, tmp_path):
    """32 MiB in the place of the runs."""
    image, place = tmp_path / "image", tmp_path / "runs"
    place.mkdir(mode=0o700)
    with image.open("wb") as file:
        file.truncate(32 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    device = subprocess.run(
        ["losetup", "--find", "--show", image], capture_output=True, text=True, check=True
    )
    sides = [[], *(["nsenter", f"--target={pid}", "--mount", "--"] for pid in nodes(cluster))]
    assert len(sides) > 2
    disk = Shared(place, device.stdout.strip(), sides)
    disk.mount()
    place.chmod(0o700)
    yield disk
    disk.rest()
    disk.unmount()
    subprocess.run(["losetup", "-d", disk.device], check=True)


class Shared(Disk):
    """A disk that the host and each node mount; `sides` are the beginnings of commands there."""

    def __init__(self, place, device, sides):
        super().__init__(place)
        self.device, self._sides = device, sides

    def mount(self):
        for side in self._sides:
            subprocess.run([*side, "mount", self.device, self.place], check=True)

    def unmount(self):
        for side in self._sides:
            subprocess.run([*side, "umount", "-l", self.place], check=True)

    def fail(self):
        """Nothing can be written from now on: what ext4 does after an error of its device."""
        subprocess.run(["mount", "-o", "remount,abort", self.place], check=True)

    def mend(self):
        """What an administrator does."""
        self.unmount()
        assert subprocess.run(["e2fsck", "-fy", self.device], capture_output=True).returncode < 4
        self.mount()


def test_five_seconds_cost_a_job_nothing_but_a_checkpoint(cluster, disk, run, same_weights):
    job = run("+model.pause_s=0.15")
    job.submit()
    job.await_step(20)
    disk.fill()
    time.sleep(5)
    disk.free()
    job.await_end("done", "DONE")
    assert job.state["attempt"] == 1
    assert "checkpoint not written" in job.logs()
    same_weights(job)


def test_a_job_that_comes_back_onto_a_full_disk(cluster, disk, run, same_weights):
    job = run()
    job_id = job.submit()["job_id"]
    job.await_step(20)
    cluster.call("scontrol", "requeue", job_id)
    until(lambda: job.state["phase"] == "requeued", "the first start to end")
    disk.fill()
    job.await_end("failed", "DISK_FULL")
    assert "Traceback" not in job.logs(), job.logs()
    codes = until(lambda: cluster.call("sacct", "-nPX", "-j", job_id, "-o", "State,ExitCode"), "accounting")
    assert f"FAILED|{exit_code('DISK_FULL') - 128}:0" in codes, (
        job.logs()
    )  # sacct takes 128 off all that are higher
    disk.free()
    job.await_end("failed", "DISK_FULL")
    cluster.hpctrain("resume", "--root", job.root)
    job.await_end("done", "DONE")
    same_weights(job)


def test_a_disk_that_fails_under_a_job(cluster, disk, run, same_weights, tmp_path):
    """Neither state.json nor a log can say so: the job's exit code does, to whoever asks Slurm."""
    job = run("+model.pause_s=0.15")
    job_id = job.submit()["job_id"]
    job.await_step(20)
    disk.fail()
    until(lambda: "FAILED" in cluster.call("sacct", "-nPX", "-j", job_id, "-o", "State"), "the end")
    codes = cluster.call("sacct", "-nPX", "-j", job_id, "-o", "State,ExitCode")
    assert f"FAILED|{exit_code('STORAGE_ERROR') - 128}:0" in codes
    assert job.state["phase"] == "running", "the truth could not be written"
    row = job.status()
    assert (row["phase"], row["reason"]) == ("failed", "STORAGE_ERROR")
    disk.mend()
    job.await_end("failed", "STORAGE_ERROR")
    cluster.hpctrain("resume", "--root", job.root)
    job.await_end("done", "DONE")
    same_weights(job)
