"""How runs end: the tables, the transitions, old files; and that nobody else writes or spells them."""

import ast
import dataclasses
import errno
import json
import os
import signal
import time
from pathlib import Path

import pytest

from hpctrain.errors import RunFailed
from hpctrain.storage import run_state
from hpctrain.storage.json_files import clock_of
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import (
    ENDINGS,
    FINAL,
    PHASES,
    Ending,
    Phase,
    Reason,
    RunState,
    StateFile,
    Submission,
    SubmissionFile,
)

PACKAGE = Path(run_state.__file__).parents[1]


@pytest.fixture
def state(tmp_path):
    return StateFile(tmp_path / "state.json")


@pytest.fixture
def now_s(monkeypatch):
    """The time, which stands still."""
    monkeypatch.setattr(run_state.time, "time", lambda: 1000.0)
    return 1000.0


@pytest.fixture
def written(state, now_s):
    """What stands in the file, but for the heartbeat, which must be now."""

    def read():
        values = json.loads(state.path.read_text())
        assert values.pop("heartbeat") == now_s
        return values

    return read


class TestTables:
    def test_every_reason_has_its_ending(self):
        assert ENDINGS.keys() == set(Reason)
        assert all(ending.text for ending in ENDINGS.values())

    def test_phases(self):
        names = ("submitted", "starting", "running", "requeued", "done", "failed", "cancelled", "interrupted")
        assert names == PHASES
        assert {"done", "failed", "cancelled", "interrupted"} == FINAL
        assert {p for p in Phase if p.final} == FINAL

    @pytest.mark.parametrize(("reason", "in_slurm", "phase"), [
        ("DONE", True, "done"), ("DONE", False, "done"), ("CANCELLED", True, "cancelled"),
        ("INTERRUPTED", True, "interrupted"), ("PAUSED", True, "interrupted"),
        ("PREEMPTED", True, "requeued"), ("PREEMPTED", False, "interrupted"),
        ("TERMINATED", True, "requeued"), ("TERMINATED", False, "interrupted"),
        ("TIME_LIMIT", True, "requeued"), ("TIME_LIMIT", False, "interrupted"),
        *((reason, True, "failed") for reason in (
            "OUT_OF_MEMORY", "NAN_PERSISTENT", "LATE_GRADIENT", "COUNT_DIFFERS", "DATA_ERROR", "IMPORT_ERROR",
            "COLLECTIVE_TIMEOUT",
            "NODE_FAILURE",
            "RANK_KILLED", "DISK_FULL", "STORAGE_ERROR", "NO_VALID_CHECKPOINT", "CONFIG_CHANGED", "RUN_LOCKED",
            "NO_PROGRESS", "SUBMIT_FAILED", "LOST", "ERROR",
        )),
    ])  # fmt: skip
    def test_the_phase_that_a_reason_leaves(self, reason, in_slurm, phase):
        assert run_state.phase_after(reason, in_slurm) == phase

    def test_what_is_tried_again(self):
        assert run_state.passing() == {
            "RANK_KILLED", "LOST", "NODE_FAILURE", "COLLECTIVE_TIMEOUT", "STORAGE_ERROR"
        }  # fmt: skip

    @pytest.mark.parametrize(("word", "reason"), [
        ("COMPLETED", "DONE"), ("CANCELLED", "CANCELLED"), ("REVOKED", "CANCELLED"), ("TIMEOUT", "TIME_LIMIT"),
        ("DEADLINE", "TIME_LIMIT"), ("OUT_OF_MEMORY", "OUT_OF_MEMORY"), ("NODE_FAIL", "NODE_FAILURE"),
        ("BOOT_FAIL", "NODE_FAILURE"), ("PREEMPTED", "PREEMPTED"), ("FAILED", "ERROR"), ("NEVER_HEARD", None),
        ("RUNNING", None),
    ])  # fmt: skip
    def test_slurms_states(self, word, reason):
        assert run_state.reason_of_slurm(word) == reason

    def test_signals(self):
        assert run_state.reasons_of_signals() == {
            signal.SIGINT: "INTERRUPTED", signal.SIGUSR1: "PREEMPTED", signal.SIGUSR2: "PREEMPTED",
            signal.SIGTERM: "TERMINATED",
        }  # fmt: skip
        asked = {r: run_state.signal_for(r) for r in ("INTERRUPTED", "PREEMPTED", "TIME_LIMIT", "TERMINATED")}
        assert asked == {
            "INTERRUPTED": signal.SIGINT, "PREEMPTED": signal.SIGUSR2, "TIME_LIMIT": signal.SIGUSR2,
            "TERMINATED": signal.SIGTERM,
        }  # fmt: skip

    @pytest.mark.parametrize(("number", "reason"), [
        (errno.ENOSPC, "DISK_FULL"), (errno.EDQUOT, "DISK_FULL"), (errno.EIO, "STORAGE_ERROR"),
        (errno.EROFS, "STORAGE_ERROR"), (errno.ESTALE, "STORAGE_ERROR"), (errno.ENOENT, None),
    ])  # fmt: skip
    def test_errors_of_storage(self, number, reason):
        error = OSError(number, "no")
        assert run_state.reason_of_oserror(error) == reason
        failure = run_state.storage_failure(error, "tokens")
        assert failure.reason == (reason or "STORAGE_ERROR")
        assert failure.detail == f"tokens: {error}"

    def test_a_reason_is_added_in_one_place(self, state, monkeypatch):
        toy = Ending("a toy broke", Phase.FAILED, passing=True, slurm_states=("TOY",), errnos=(99999,))
        monkeypatch.setitem(ENDINGS, "TOY_BROKE", toy)
        state.failed("TOY_BROKE", "it fell", rank=2)
        assert (state.read().phase, state.read().reason) == ("failed", "TOY_BROKE")
        assert "TOY_BROKE" in run_state.passing()
        assert run_state.reason_of_slurm("TOY") == "TOY_BROKE"
        assert run_state.reason_of_oserror(OSError(99999, "")) == "TOY_BROKE"


class TestState:
    def test_none_yet(self, state):
        assert state.read() == RunState()
        assert state.read().phase == "new"
        assert not state.read().final
        assert state.read_with_age(5.0) == (RunState(), None)

    def test_a_life(self, state, written):
        state.submitted(first=True)
        assert written() == {"phase": "submitted", "reason": None, "detail": None, "rank": None, "starts": []}
        state.started_at([0, 4])
        state.starting(attempt=1, ranks=2)
        assert written() == {
            "phase": "starting", "reason": None, "detail": None, "rank": None, "starts": [0, 4],
            "attempt": 1, "ranks": 2,
        }  # fmt: skip
        state.beat(phase=Phase.RUNNING, step=3)
        assert (written()["phase"], written()["step"]) == ("running", 3)
        state.beat(step=4)
        assert (written()["phase"], written()["step"]) == ("running", 4)
        ended = state.stopped(Reason.PREEMPTED, in_slurm=True)
        assert ended == state.read()
        assert (ended.phase, ended.reason, ended.detail, ended.step) == ("requeued", "PREEMPTED", None, 4)
        assert not ended.final
        state.starting(first=True)
        assert written()["starts"] == []
        assert written()["reason"] is None
        assert state.stopped("DONE", in_slurm=True).final

    def test_a_submission_that_goes_on_counts_starts(self, state, written):
        state.started_at([7])
        state.submitted()
        assert written()["starts"] == [7]

    def test_a_failure(self, state, written):
        state.failed(Reason.OUT_OF_MEMORY, "a tensor", rank=3, host="n1")
        assert written() == {
            "phase": "failed", "reason": "OUT_OF_MEMORY", "detail": "a tensor", "rank": 3, "host": "n1",
        }  # fmt: skip
        state.failed(Reason.CANCELLED, "by the user")
        assert written() == {
            "phase": "cancelled", "reason": "CANCELLED", "detail": "by the user", "rank": None, "host": "n1",
        }  # fmt: skip

    def test_a_warning_that_could_not_be_followed_fails(self, state):
        assert state.failed(Reason.PREEMPTED, "too late").phase == "failed"

    def test_others_words(self, state, written):
        state.beat(phase=Phase.REQUEUED, reason="TERMINATED")
        state.reason_is(Reason.PREEMPTED)
        assert written() == {"phase": "requeued", "reason": "PREEMPTED"}
        state.interrupted("nobody puts it back")
        assert written() == {"phase": "interrupted", "reason": "PREEMPTED", "detail": "nobody puts it back"}
        state.cancelled("while it waited")
        assert written() == {"phase": "cancelled", "reason": "CANCELLED", "detail": "while it waited"}
        state.ended(Phase.FAILED, "NODE_FAILURE", "Slurm says NODE_FAIL")
        assert written() == {"phase": "failed", "reason": "NODE_FAILURE", "detail": "Slurm says NODE_FAIL"}

    def test_a_refused_submission(self, state):
        state.not_submitted(RunState(Phase.INTERRUPTED, "TIME_LIMIT"), "SUBMIT_FAILED", "no such account")
        assert (state.read().phase, state.read().reason) == ("interrupted", "SUBMIT_FAILED")
        state.not_submitted(RunState(), "SUBMIT_FAILED", "no such account")
        assert (state.read().phase, state.read().detail) == ("failed", "no such account")

    def test_the_sets_are_closed(self, state):
        with pytest.raises(ValueError, match="GREMLINS"):
            state.failed("GREMLINS", "") if "GREMLINS" in ENDINGS else state.reason_is("GREMLINS")
        with pytest.raises(ValueError, match="asleep"):
            state.beat(phase="asleep")
        assert not state.path.exists()

    def test_keys_of_other_versions_are_kept(self, state, written):
        state.path.write_text('{"phase": "running", "from_the_future": 1}')
        state.beat(step=1)
        assert written() == {"phase": "running", "from_the_future": 1, "step": 1}
        state.path.write_text('{"phase": "dreaming"}')
        assert state.read().phase == "new"

    def test_a_damaged_file_is_no_state(self, state):
        state.path.write_text("{")
        assert state.read() == RunState(damage="not JSON: EOF while parsing an object at line 1 column 1")

    def test_ages_are_those_of_the_file_whatever_clock_the_writer_has(self, state):
        state.beat(phase=Phase.RUNNING)
        assert state.read_with_age(clock_of(state.path.parent))[1] < 60
        values = json.loads(state.path.read_text()) | {"heartbeat": time.time() + 3600}  # by its node's clock
        state.path.write_text(json.dumps(values))
        os.utime(state.path, (1000.0, 1000.0))
        assert state.read_with_age(1040.0)[1] == 40.0
        assert state.read_with_age(998.0)[1] == 0.0, "clocks are never quite in step"
        assert state.read_with_age(900.0)[1] is None, "no clock tells"

    def test_a_start_forgets_how_the_run_ended_before(self, state, written):
        state.failed(Reason.ERROR, "it fell", rank=3, attempt=4)
        assert (written()["attempt"], written()["rank"]) == (4, 3)
        state.starting(attempt=5)
        assert written() == {"phase": "starting", "reason": None, "detail": None, "rank": None, "attempt": 5}

    def test_a_stop_says_more_if_there_is_more_to_say(self, state, written):
        state.stopped(Reason.DONE, in_slurm=False, detail="all 3 epochs")
        assert written() == {"phase": "done", "reason": "DONE", "detail": "all 3 epochs"}

    def test_the_clocks_may_differ_by_five_seconds_at_most(self, state):
        state.path.write_text('{"heartbeat": 1.0}')
        os.utime(state.path, (1000.0, 1000.0))
        assert state.read_with_age(995.0)[1] == 0.0
        assert state.read_with_age(994.0)[1] is None

    def test_a_run_that_never_beat_has_no_age(self, state):
        state.path.write_text('{"phase": "submitted"}')
        assert state.read_with_age(time.time()) == (RunState(Phase.SUBMITTED), None)

    def test_a_lost_state_is_made_of_the_other_files_and_then_written(self, state, written):
        found = RunState(Phase.RUNNING, step=7, heartbeat=50.0, damage="missing")
        asked = []
        rebuilt = StateFile(state.path, rebuild=lambda why: asked.append(why) or found)
        assert rebuilt.read_with_age(60.0) == (found, 10.0)
        state.path.write_text("{")
        assert rebuilt.read() == found
        assert asked == [None, "not JSON: EOF while parsing an object at line 1 column 1"]
        rebuilt.beat(epoch=1.5)
        assert written() == {"phase": "running", "step": 7, "epoch": 1.5}

    def test_what_was_never_lost_is_not_written(self, state, written):
        """A run without damage that has no file begins with an empty one."""
        StateFile(state.path, rebuild=lambda why: RunState(step=7)).beat(epoch=1.5)
        assert written() == {"epoch": 1.5}

    def test_a_damage_is_never_read_from_the_file(self, state):
        state.path.write_text('{"phase": "running", "damage": "so it says"}')
        assert state.read() == RunState(Phase.RUNNING)

    def test_a_new_holder_has_the_same_file(self, state):
        rebuilt = StateFile(state.path, rebuild=lambda why: RunState(step=7, damage=why or "missing"))
        held = rebuilt.held_by(lambda: False)
        assert held.read().step == 7
        with pytest.raises(RunFailed, match="RUN_LOCKED"):
            held.beat(step=8)
        assert not state.path.exists()

    def test_who_has_been_taken_over_says_no_more(self, state):
        stands = iter([True, True, False])
        held = StateFile(state.path, lambda: next(stands))
        held.starting(attempt=1)
        state.starting(attempt=7)  # of an attempt before it, that is still about
        held.beat(phase=Phase.RUNNING, step=3)
        assert (state.read().attempt, state.read().step, state.read().phase) == (1, 3, "running")
        state.starting(attempt=2)
        with pytest.raises(RunFailed, match="RUN_LOCKED: a later attempt has taken this run over"):
            held.stopped(Reason.DONE, in_slurm=True)
        assert (state.read().attempt, state.read().phase) == (2, "starting")


class TestSubmission:
    def test_none_yet(self, tmp_path):
        assert SubmissionFile(tmp_path / "submission.json").read() == Submission()
        assert not Submission().in_slurm

    def test_there_and_back(self, tmp_path, now_s):
        file = SubmissionFile(tmp_path / "submission.json")
        made = Submission(
            "karolina", "abc", ("1",), slurm_conf="/etc/slurm.conf", path="/runs/s/r", open=True
        )
        file.write(made.with_jobs(["2", "3"], "hpctrain:r:abc", "r"))
        values = json.loads(file.path.read_text())
        assert values.pop("time") == now_s
        assert values == {
            "cluster": "karolina", "token": "abc", "job_ids": ["1", "2", "3"], "newest": 2, "open": False,
            "slurm_conf": "/etc/slurm.conf", "study": False, "path": "/runs/s/r", "over": False,
            "known_as": {"2": ["hpctrain:r:abc", "r"], "3": ["hpctrain:r:abc", "r"]},
        }  # fmt: skip
        assert file.read().job_ids == ("1", "2", "3")
        assert file.read().in_slurm

    def test_older_shapes(self, tmp_path):
        file = SubmissionFile(tmp_path / "submission.json")
        file.path.write_text('{"cluster": "c", "job_ids": [7], "study": true, "more": 1}')
        assert file.read() == Submission("c", job_ids=("7",), study=True)

    def test_jobs_are_added_and_moved_to_the_end(self):
        before = Submission("c", "t", ("1", "2", "3"), open=True)
        assert before.with_jobs(["2", "4"]) == Submission(
            "c", "t", ("1", "3", "2", "4"), newest=2, open=False
        )

    def test_a_job_of_an_earlier_submission_has_passed(self):
        chain = Submission("c", "t", ("1", "2")).with_jobs(["3", "4"])
        assert [chain.has_passed(job_id) for job_id in ("1", "2", "3", "4", "9")] == [
            True,
            True,
            False,
            False,
            False,
        ]
        again = dataclasses.replace(chain, open=True)  # somebody is about to submit
        assert again.has_passed("4")
        assert chain.without_jobs().has_passed("4")

    def test_a_run_that_goes_on_outside_of_jobs_keeps_only_their_numbers(self):
        jobs = Submission("c", "t", ("1", "2"), newest=2, open=True, study=True, over=True)
        assert jobs.without_jobs() == Submission("local", "t", ("1", "2"), newest=0)

    @pytest.mark.parametrize(("comment", "name"), [("c", ""), ("", "n"), ("c", "n")])
    def test_what_slurm_knows_of_a_job_is_kept(self, comment, name):
        assert Submission("c").with_jobs(["1"], comment, name).known_as == {"1": (comment, name)}
        assert Submission("c").with_jobs(["1"]).known_as == {}

    def test_a_lost_submission_is_made_of_the_other_files(self, tmp_path):
        file = SubmissionFile(
            tmp_path / "submission.json", lambda why: Submission("c", damage=why or "missing")
        )
        assert file.read() == Submission("c", damage="missing")
        file.path.touch()
        assert file.read() == Submission("c", damage="empty")
        file.path.write_text('{"cluster": "d", "damage": "so it says"}')
        assert file.read() == Submission("d")

    def test_what_a_person_says_is_over_is_not_in_slurm(self):
        assert Submission("c", open=True).in_slurm
        over = Submission("c", job_ids=("1",), over=True)
        assert not over.in_slurm
        assert over.with_jobs(["2"]).in_slurm
        assert not Submission("c", job_ids=("1",)).without_jobs().in_slurm

    @pytest.mark.parametrize(
        ("cluster", "ids", "in_slurm"), [("local", ("1",), False), ("c", (), False), ("c", ("1",), True)]
    )
    def test_where_its_jobs_are(self, cluster, ids, in_slurm):
        assert Submission(cluster, job_ids=ids).in_slurm is in_slurm


SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "run_state.py"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nobody_else_spells_a_reason_or_a_phase(path):
    """Slurm has states of the same names: scheduler/ alone spells these."""
    tree, spelled = ast.parse(path.read_text()), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "RunFailed":
            spelled += [a.value for a in node.args[:1] if isinstance(a, ast.Constant)]
        if isinstance(node, ast.Constant) and node.value in set(Reason) and "scheduler" not in path.parts:
            spelled.append(node.value)
        if isinstance(node, ast.keyword) and node.arg == "phase":
            spelled += _phases(node.value)
        if isinstance(node, ast.Compare) and any(
            "phase" in ast.unparse(n) for n in (node.left, *node.comparators)
        ):
            spelled += _phases(node)
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "phase":
                    spelled += _phases(value)
    assert spelled == []


def _phases(node):
    return [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and n.value in PHASES]


def test_nobody_else_writes_the_state():
    """Who has the path of one of the two files could write it: RunDir hands them to their owners, status names them."""
    spelled, led = set(), set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and str(node.value).endswith(("state.json", "submission.json")):
                spelled.add(str(path.relative_to(PACKAGE)))
            if isinstance(node, ast.Attribute) and node.attr in ("state_file", "submission_file"):
                led.add(str(path.relative_to(PACKAGE)))
    assert spelled == {
        "storage/run_dir.py",
        "scheduler/checked.py",
    }  # the latter makes a StateFile of an open folder
    assert led == {"storage/run_dir.py", "launch/status.py"}


def test_a_run_dir_leads_to_its_files(tmp_path):
    run = RunDir(tmp_path)
    run.state.submitted()
    run.submission.write(Submission("c"))
    assert (tmp_path / "state.json").exists()
    assert (tmp_path / "submission.json").exists()
    assert run.read_state().phase == "submitted"
