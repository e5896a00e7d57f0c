"""Claims: one owner each, whoever dies; and the study's files under two writers."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys

import pytest

from hpctrain.sweep import claims
from hpctrain.sweep.study_dir import StudyDir, Trial, Work


@pytest.fixture
def study(tmp_path):
    found = StudyDir(tmp_path / "runs" / "s")
    found.create()
    return found


def _take_all(path, barrier, queue):
    study = StudyDir(path)
    barrier.wait()
    mine = [n for n in range(40) if claims.take(study.claims, Work(f"r{n}"))]
    queue.put(mine)


def test_many_processes_at_once_get_each_claim_once(study):
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_take_all, args=(study.path, barrier, queue)) for _ in range(4)]
    for process in processes:
        process.start()
    got = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(n for mine in got for n in mine) == list(range(40))


CLAIM_AND_WAIT = """
import sys, time
from pathlib import Path
from hpctrain.sweep import claims
from hpctrain.sweep.study_dir import Work
assert claims.take(Path(sys.argv[1]), Work("r"))
print("claimed", flush=True)
time.sleep(60)
"""


def test_a_dead_owner_s_claim_is_taken_and_a_living_one_s_is_not(study):
    process = subprocess.Popen(
        [sys.executable, "-c", CLAIM_AND_WAIT, str(study.claims)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "claimed\n"
    last = claims.newest(study.claims)
    assert last == {"r.0": 1}
    assert claims.take(study.claims, Work("r"), last["r.0"]) is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    claim = claims.take(study.claims, Work("r"), last["r.0"])
    assert claim is not None
    assert (claim.number, claim.mishaps()) == (2, 1)


def test_a_claim_given_back_is_free_and_no_death(study):
    claim = claims.take(study.claims, Work("r"))
    claim.close("stopped")
    again = claims.take(study.claims, Work("r"), 1)
    assert again is not None
    assert again.mishaps() == 0
    assert claims.take(study.claims, Work("r"), 1) is None, "number 2 is taken"


def test_another_job_s_claim_is_free_once_slurm_says_so(study):
    claims.take(study.claims, Work("r"))
    path = study.claims / "r.0.1.json"
    record = json.loads(path.read_text())
    record["owner"] |= {"boot": "another", "machine": "another", "job_id": "77"}
    path.write_text(json.dumps(record))
    for said, free in ((None, False), (False, False), (True, True)):
        taken = claims.take(study.claims, Work("r"), 1, lambda job_id, said=said: said)
        assert (taken is not None) == free


def test_parts_of_two_writers_both_stay(study):
    other = StudyDir(study.path)
    study.add_part({"trials": [{"run_id": "a", "overrides": ["x=1"], "params": {"x": 1}, "config": {}}]})
    other.add_part({"trials": [{"run_id": "b", "overrides": ["x=2"], "params": {"x": 2}, "config": {}}]})
    assert list(study.trials()) == ["a", "b"]


def test_no_more_suggestions_than_asked_for(study):
    made = [study.add_suggestion(Trial(f"r{n}", (), {}, {}), n, limit=3) for n in range(5)]
    assert made == [True, True, True, False, False]
    assert [n for n, _ in study.suggestions()] == [1, 2, 3]


def test_a_full_disk_leaves_no_claim(study, monkeypatch):
    from hpctrain.storage import files

    def full(self, handle, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.Files, "write", full)
    with pytest.raises(OSError, match="No space left"):
        claims.take(study.claims, Work("r"))
    monkeypatch.undo()
    assert list(study.claims.iterdir()) == []
    assert claims.take(study.claims, Work("r"))
