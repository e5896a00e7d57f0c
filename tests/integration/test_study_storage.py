"""A study on a disk that is really full: nothing half-written counts, and what was written stays."""

import json
import subprocess
from dataclasses import asdict

import pytest

from hpctrain.config.swept import Interval
from hpctrain.errors import RunFailed
from hpctrain.sweep import claims
from hpctrain.sweep.samplers import Search
from hpctrain.sweep.settings import SweepConfig
from hpctrain.sweep.study_dir import StudyDir, Work

SETTINGS = SweepConfig(sampler="tpe", trials=1000, metric="loss")
SPACE = [Interval("optimizer.lr", 0.001, 1.0, log=True, integer=False)]


@pytest.fixture
def small_disk(tmp_path):
    """1 MiB of a real file system."""
    place = tmp_path / "small"
    place.mkdir(mode=0o700)
    mounted = ["mount", "-t", "tmpfs", "-o", "mode=0700,size=1m", "tmpfs", str(place)]
    done = subprocess.run(mounted, capture_output=True, text=True)
    assert done.returncode == 0, f"this test mounts a tmpfs, as root: {done.stderr}"
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(place):
    with (place / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass


def test_a_full_disk_stops_a_search_and_loses_nothing(small_disk):
    study = StudyDir(small_disk / "runs" / "s")
    study.create()
    study.add_part({"sweep": asdict(SETTINGS), "trials": []})
    search = Search(study, SETTINGS, SPACE, ["experiment=lenet_digits"], higher_is_better=False)
    first = search.suggest()
    claims.take(study.claims, Work(first.run_id))
    fill(small_disk)
    with pytest.raises(RunFailed, match="DISK_FULL"):
        [search.suggest() for _ in range(1000)]
    made = [n for n, _ in study.suggestions()]
    with pytest.raises(OSError, match="No space left"):
        claims.take(study.claims, Work("another"))
    for line in study.journal.read_text().splitlines():
        json.loads(line)

    (small_disk / "filler").unlink()
    assert claims.newest(study.claims) == {f"{first.run_id}.0": 1}
    again = Search(StudyDir(study.path), SETTINGS, SPACE, ["experiment=lenet_digits"], higher_is_better=False)
    assert again.suggest() is not None
    assert [n for n, _ in study.suggestions()] == [*made, len(made) + 1]
    assert not list(study.folder.glob("*/.draft*"))
