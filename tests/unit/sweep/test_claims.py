"""Claims: one owner each, whoever dies; and the study's files under two writers."""

import json
import multiprocessing
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from hpctrain import cli
from hpctrain.storage.lock import this_process
from hpctrain.sweep import claims
from hpctrain.sweep.study_dir import StudyDir, Trial, Work, stored
from tests.damages import DAMAGES

pytestmark = pytest.mark.usefixtures("at_once")
PART = {"slurm_conf": None, "on_slurm": False, "sweep": {}, "task": "classification", "fixed": []}


@pytest.fixture
def study(tmp_path):
    found = StudyDir(tmp_path / "runs" / "s")
    found.create()
    return found


def test_a_claim_says_whose_it_is_and_then_how_it_ended(study, monkeypatch):
    now_s = [1000.0]
    monkeypatch.setattr(claims.time, "time", lambda: now_s[0])
    claim = claims.take(study.claims, Work("r", 2))
    assert (claim.work, claim.number, claim.earlier) == (Work("r", 2), 1, [])
    assert claim.path == study.claims / "r.2.1.json"
    began = claims.read(study.claims, "r.2", 1)
    assert sorted(began) == ["began", "key", "owner"]
    assert began["key"] == "r.2"
    assert began["began"] == 1000.0
    assert began["owner"] == replace(this_process(1), since=began["owner"].since)
    now_s[0] = 1007.0
    claim.close("done", reason="DONE", seconds=1.5)
    ended = claims.read(study.claims, "r.2", 1)
    assert ended.pop("until") == 1007.0
    assert ended == began | {"outcome": "done", "reason": "DONE", "seconds": 1.5}
    next_one = claims.take(study.claims, Work("r", 2), 1)
    assert claims.read(study.claims, "r.2", 2)["owner"].attempt == 2
    # A record that is lost or damaged does not keep the end from being written.
    next_one.path.write_text("{half")
    next_one.close("failed")
    assert claims.read(study.claims, "r.2", 2)["outcome"] == "failed"


def test_the_newest_claim_of_each_piece_of_work(study):
    assert claims.newest(study.claims) == {}
    assert claims.newest(study.path / "missing") == {}
    for name in ("a.0.1", "a.0.9", "a.0.10", "a.0.2", "a.1.3", "dot.ted.0.4", "a.0.next"):
        (study.claims / f"{name}.json").touch()
    (study.claims / ".draft.a.0.11.json.12345678").touch()  # another process is about to publish it
    (study.claims / "notes").touch()
    assert claims.newest(study.claims) == {"a.0": 10, "a.1": 3, "dot.ted.0": 4}


def test_a_claim_that_is_missing_is_empty_and_over(study):
    assert claims.read(study.claims, "r.0", 1) == {}
    assert claims.is_over({}, this_process(1))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_claim_that_is_damaged_is_named_and_over_and_in_nobody_s_way(study, capsys, monkeypatch, damage):
    run_ids = ["r", "other"]
    study.add_part(PART | {"trials": [stored(Trial(run_id, (), {}, {})) for run_id in run_ids]})
    path = study.claims / "r.0.1.json"
    DAMAGES[damage](path)
    record = claims.read(study.claims, "r.0", 1)
    assert list(record) == ["damage"]
    assert record["damage"].startswith(f"{path} is damaged (")
    assert claims.is_over(record, this_process(1))
    monkeypatch.chdir(study.path.parents[1])
    for command in (["status", "--study", "s"], ["report", "s", "--no-html"]):
        assert cli.main(command) == 0
        said = capsys.readouterr()
        assert "other" in said.out or command[0] == "report"
        assert command[0] == "status" or said.err.splitlines() == [f"hpctrain: {record['damage']}"]
    again = claims.take(study.claims, Work("r"), 1)
    assert (again.number, again.earlier) == (2, [record])
    claims.unlock(study.claims, "r.0", 1)
    assert claims.read(study.claims, "r.0", 1)["outcome"] == "unlocked"


def test_a_claim_knows_the_ones_before_it(study):
    for number, outcome in enumerate(("stopped", "locked", "ended")):
        claims.take(study.claims, Work("r"), number).close(outcome)
    last = claims.take(study.claims, Work("r"), 3)
    assert [record["outcome"] for record in last.earlier] == ["stopped", "locked", "ended"]
    assert last.number == 4


DIED = {}


def stopped(reason=None):
    return {"outcome": "stopped", "reason": reason}


@pytest.mark.parametrize(
    ("earlier", "mishaps", "goes_on"),
    [
        ([], 0, False),
        ([DIED], 1, True),
        ([DIED, DIED], 2, True),
        ([{"outcome": "done"}], 0, False),
        ([DIED, {"outcome": "paused"}, DIED], 1, True),
        # It stopped for a reason that counts, or for one that does not.
        ([DIED, stopped("NODE_FAIL"), DIED], 3, True),
        ([DIED, stopped("PREEMPTED"), DIED], 1, True),
        ([DIED, stopped()], 0, True),
        # Somebody else had the run's lock: neither a mishap nor the end of a row of them.
        ([DIED, {"outcome": "locked"}, DIED], 2, True),
    ],
)
def test_mishaps_in_a_row(tmp_path, earlier, mishaps, goes_on):
    claim = claims.Claim(Work("r"), tmp_path / "r.0.9.json", 9, earlier)
    assert claim.mishaps({"NODE_FAIL"}) == mishaps
    assert claim.goes_on is goes_on


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
    command = [sys.executable, "-c", CLAIM_AND_WAIT, str(study.claims)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "claimed\n"
            last = claims.newest(study.claims)
            assert last == {"r.0": 1}
            assert claims.take(study.claims, Work("r"), last["r.0"]) is None
        finally:
            process.send_signal(signal.SIGKILL)
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


def _take_all(path, barrier, queue):
    study = StudyDir(path)
    barrier.wait()
    mine = []
    try:
        mine += [n for n in range(40) if claims.take(study.claims, Work(f"r{n}"))]
    finally:
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


class Slurm:
    """Knows jobs by id: whether they have ended (None: it does not say)."""

    def __init__(self, **ended):
        self._ended = ended

    def has_ended(self, job_id):
        return self._ended.get(job_id)

    def job(self, job_id):
        return object() if job_id in self._ended else None


@pytest.mark.parametrize(
    ("owner", "slurm", "lives"),
    [
        ({}, Slurm(), True),  # this process
        ({"started": "1"}, Slurm(), False),  # another one had its number, on this machine
        ({"boot": "another x", "machine": "another"}, Slurm(), None),  # another machine's
        ({"boot": "another x", "machine": "another", "job_id": "job7"}, Slurm(job7=False), True),
        ({"boot": "another x", "machine": "another", "job_id": "job7"}, Slurm(job7=None), True),  # a new word
        ({"boot": "another x", "machine": "another", "job_id": "job7"}, Slurm(job7=True), False),
        ({"boot": "another x", "machine": "another", "job_id": "job7"}, Slurm(job8=False), None),  # forgotten
        ({"job_id": "job7"}, Slurm(), True),  # its process lives here, whatever Slurm has forgotten
    ],
)
def test_whether_somebody_works_on_a_claim(owner, slurm, lives):
    mine = this_process(0)
    record = {"owner": replace(mine, **owner), "began": 1.0, "key": "r"}
    assert claims.lives(record, mine, slurm) is lives
    assert claims.lives(record | {"outcome": "done"}, mine, slurm) is False


def test_a_damaged_claim_that_is_closed_is_whole_again(study):
    (study.claims / "r.1.json").write_text("{")
    claims.unlock(study.claims, "r", 1)
    closed = claims.read(study.claims, "r", 1)
    assert sorted(closed) == ["outcome", "until"]
    assert "damage" not in json.loads((study.claims / "r.1.json").read_text())
