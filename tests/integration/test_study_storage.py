"""A study on a disk that is really full: nothing half-written counts, and what was written stays."""

import json
from dataclasses import asdict

import pytest

from hpctrain.config.swept import Interval
from hpctrain.errors import RunFailed
from hpctrain.sweep import claims
from hpctrain.sweep.samplers import Search
from hpctrain.sweep.settings import SweepConfig
from hpctrain.sweep.study_dir import StudyDir, Work
from tests.small_disk import small_disk

SETTINGS = SweepConfig(sampler="tpe", trials=1000, metric="loss")
SPACE = [Interval("optimizer.lr", 0.001, 1.0, log=True, integer=False)]


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "small") as disk:
        yield disk


def test_a_full_disk_stops_a_search_and_loses_nothing(disk):
    study = StudyDir(disk.place / "runs" / "s")
    study.create()
    study.add_part({"sweep": asdict(SETTINGS), "trials": []})
    search = Search(study, SETTINGS, SPACE, ["experiment=lenet_digits"], higher_is_better=False)
    first = search.suggest()
    claims.take(study.claims, Work(first.run_id))
    disk.fill()
    with pytest.raises(RunFailed, match="DISK_FULL"):
        [search.suggest() for _ in range(1000)]
    made = [n for n, _ in study.suggestions()]
    with pytest.raises(OSError, match="No space left"):
        claims.take(study.claims, Work("another"))
    for line in study.journal.read_text().splitlines():
        json.loads(line)

    disk.free()
    assert claims.newest(study.claims) == {f"{first.run_id}.0": 1}
    again = Search(StudyDir(study.path), SETTINGS, SPACE, ["experiment=lenet_digits"], higher_is_better=False)
    assert again.suggest() is not None
    assert [n for n, _ in study.suggestions()] == [*made, len(made) + 1]
    assert not list(study.folder.glob("*/.draft*"))
