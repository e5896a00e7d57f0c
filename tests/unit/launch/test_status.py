"""What status makes of a run's own word and Slurm's."""

import io
import json
import os
import socket
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from hpctrain.launch import status
from hpctrain.launch.status import Row
from hpctrain.scheduler import client
from hpctrain.scheduler.answers import Job
from hpctrain.storage import lock
from hpctrain.storage.search import locate

RESUMES = "hpctrain resume goes on from its last checkpoint"
NOW_S = 1e6


def row(phase, age_s=1.0, reason=None, **more):
    return replace(Row("s", "r", phase, reason, None, 1, 5, 0.5, {}, "7", None, age_s), **more)


def no_word(state):
    return f"Slurm says {state}; no rank said how it ended"


@pytest.mark.parametrize(
    ("own", "job", "changes"),
    [
        (row("submitted"), Job("7", "PENDING", "Resources"), {"reason": "Resources", "detail": "waiting: Resources"}),
        (
            row("running", 99),
            Job("7", "PENDING", "BeginTime"),
            {"phase": "requeued", "reason": "BeginTime", "detail": "waiting: BeginTime"},
        ),
        (
            row("starting", 99, "TERMINATED"),
            Job("7", "CONFIGURING", "None"),
            {"phase": "requeued", "detail": "waiting: None"},
        ),
        (row("requeued", 99, "TERMINATED"), Job("7", "REQUEUED", "None"), {"detail": "waiting: None"}),
        (row("submitted"), Job("7", "RUNNING"), {"phase": "starting"}),
        (row("requeued", 2, "TERMINATED"), Job("7", "COMPLETING"), {"phase": "starting"}),
        (row("running"), Job("7", "RUNNING"), {}),
        (
            row("running"),
            Job("7", "CANCELLED"),
            {"phase": "cancelled", "reason": "CANCELLED", "detail": "cancelled in Slurm"},
        ),
        (
            row("running", 99),
            Job("7", "NODE_FAIL"),
            {"phase": "failed", "reason": "NODE_FAILURE", "detail": no_word("NODE_FAIL")},
        ),
        (
            row("running"),
            Job("7", "TIMEOUT"),
            {"phase": "failed", "reason": "TIME_LIMIT", "detail": no_word("TIMEOUT")},
        ),
        (
            row("running", detail="rank 3 allocates"),
            Job("7", "OUT_OF_MEMORY"),
            {"phase": "failed", "reason": "OUT_OF_MEMORY"},
        ),
        (row("running", 30.0), Job("7", "COMPLETED"), {}),
        (
            row("running", 30.5),
            Job("7", "COMPLETED"),
            {"phase": "failed", "reason": "LOST", "detail": no_word("COMPLETED")},
        ),
        (
            row("running", None),
            Job("7", "COMPLETED"),
            {"phase": "failed", "reason": "LOST", "detail": no_word("COMPLETED")},
        ),
        (row("running"), Job("7", "PREEMPTED"), {"phase": "interrupted", "reason": "PREEMPTED", "detail": RESUMES}),
        (row("requeued", 99, "TIME_LIMIT"), Job("7", "COMPLETED"), {"phase": "interrupted", "detail": RESUMES}),
        # What Slurm says in a word of its own is not an end.
        (row("running", 99), Job("7", "NEVER_HEARD"), {}),
        # A run's own end stays.
        (row("done", reason="DONE"), Job("7", "RUNNING"), {}),
        (row("failed", reason="ERROR"), Job("7", "PENDING"), {}),
    ],
)  # fmt: skip
def test_a_run_s_word_and_slurm_s_are_joined(own, job, changes):
    assert status.settle(own, job) == replace(own, scheduler=job.state, **changes)


NOT_KNOWN = "Slurm knows nothing of job 7; if you know that it has ended: hpctrain {}"


@pytest.mark.parametrize(
    ("own", "of_study", "changes"),
    [
        (row("running", 99), False, {"scheduler": "unknown", "detail": NOT_KNOWN.format("checkpoints r --unlock")}),
        (
            row("requeued", 2, "TERMINATED"),
            False,
            {"scheduler": "unknown", "detail": NOT_KNOWN.format("checkpoints r --unlock")},
        ),
        (row("submitted", 99), True, {"scheduler": "unknown", "detail": NOT_KNOWN.format("sweep --unlock s")}),
        (row("submitted", job_id=None), False, {"scheduler": "unknown", "detail": "Slurm has no job of this run"}),
        (row("done", reason="DONE"), False, {}),
    ],
)  # fmt: skip
def test_what_slurm_does_not_know_is_no_end(own, of_study, changes):
    assert status.settle(own, None, of_study=of_study) == replace(own, **changes)


@pytest.mark.parametrize(
    ("age_s", "changes"),
    [
        (86400.0, {"scheduler": "unknown", "detail": "accounting lists job 7 as RUNNING, but it is not in the queue"}),
        (None, {"scheduler": "unknown", "detail": "accounting lists job 7 as RUNNING, but it is not in the queue"}),
        (
            86401.0,
            {
                "scheduler": "RUNNING", "phase": "failed", "reason": "LOST",
                "detail": "only accounting lists its job, and the last heartbeat is a day old",
            },
        ),
    ],
)  # fmt: skip
def test_what_accounting_alone_shows_as_running_is_lost_after_a_day(age_s, changes):
    own = row("running", age_s)
    assert status.settle(own, Job("7", "RUNNING"), queued=False) == replace(own, **changes)


LEFT = "job 7 has left its array; no rank said how it ended"


@pytest.mark.parametrize(
    ("own", "changes"),
    [
        (row("submitted", 99), {"phase": "cancelled", "reason": "CANCELLED", "detail": "cancelled while it waited"}),
        (row("requeued", 99, "PREEMPTED"), {"phase": "interrupted", "detail": RESUMES}),
        (row("running", 31), {"phase": "failed", "reason": "LOST", "detail": LEFT}),
        (row("running", None), {"phase": "failed", "reason": "LOST", "detail": LEFT}),
        (row("running", 99, detail="rank 3 allocates"), {"phase": "failed", "reason": "LOST"}),
        (row("running", 30.0), {}),
        (row("done", 99), {}),
    ],
)  # fmt: skip
def test_a_task_that_has_left_its_array_has_ended(own, changes):
    assert status._settle_forgotten(own) == replace(own, **changes)


class Slurm:
    """The answers of squeue and sacct, by cluster (its slurm.conf); one without a queue does not answer."""

    def __init__(self):
        self.queues, self.histories, self.asked = {}, {}, []

    def queue(self, conf):
        self.asked.append(conf)
        if conf not in self.queues:
            raise client.Unreachable("no answer")
        return {job.job_id: job for job in self.queues[conf]}

    def history(self, job_ids, conf):
        return {job.job_id: job for job in self.histories.get(conf, ()) if job.job_id in job_ids}


@pytest.fixture(autouse=True)
def slurm(monkeypatch):
    answers = Slurm()
    monkeypatch.setattr(client, "queue", answers.queue)
    monkeypatch.setattr(client, "history", answers.history)
    return answers


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """The clock of the folders' files, which stands still."""
    monkeypatch.setattr(status, "clock_of", lambda folder: NOW_S + 0 * len(folder.parts))


def a_run(folder, run_id="r", age_s=2.0, submission=None, **state):
    """A run whose last heartbeat is `age_s` old; `submission` {}: it was never a job."""
    run = locate(str(folder), "s", run_id)
    run.path.mkdir(parents=True)
    run.config_file.touch()
    if submission is None:
        submission = {"cluster": "c", "job_ids": ["7"], "slurm_conf": "/c.conf"}
    if submission:
        run.submission_file.write_text(json.dumps(submission))
    if state.get("phase") != "new":
        run.state_file.write_text(json.dumps({"phase": "running", "heartbeat": 0.0} | state))
        os.utime(run.state_file, (NOW_S - age_s, NOW_S - age_s))
    return run


def told(run, age_s=2.0, **more):
    """The row of a run of which nothing but the phase is known."""
    plain = Row("s", run.run_id, "running", None, None, None, None, None, {}, "7", None, age_s)
    return replace(plain, **more)


class TestOwnFiles:
    @pytest.mark.parametrize(
        ("state", "more"),
        [
            ({"step": 30, "total_steps": 40}, {"step": 30, "progress": 0.75}),
            ({"step": 0, "total_steps": 40}, {"step": 0, "progress": 0.0}),
            ({"step": 30}, {"step": 30}),
            ({"total_steps": 40}, {}),
            ({"step": 0, "total_steps": 0}, {"step": 0}),
            ({"figures": {"loss": 0.5}}, {"scores": {"loss": 0.5}}),
            ({"figures": {"loss": 0.5}, "summary": {"validation": {"accuracy": 0.9}}}, {"scores": {"accuracy": 0.9}}),
            ({"figures": {"loss": 0.5}, "summary": {"train_s": 3}}, {"scores": {"loss": 0.5}}),
            ({"summary": {"validation": 0.9}}, {}),
            (2 * ({"attempt": 3, "reason": "ERROR", "detail": "rank 3"},)),
        ],
    )  # fmt: skip
    def test_a_row_is_what_the_state_says(self, tmp_path, slurm, state, more):
        run = a_run(tmp_path, phase="failed", job_id="6", **state)
        assert status.rows(tmp_path) == [told(run, phase="failed", job_id="6", **more)]
        assert slurm.asked == []

    @pytest.mark.parametrize(
        ("submission", "job_id"),
        [
            ({"job_ids": ["7", "8"], "newest": 1}, "8"),
            ({"job_ids": ["7"], "newest": 0}, "6"),
            ({"job_ids": [], "newest": 1}, "6"),
        ],
    )
    def test_the_newest_job_is_the_submission_s_or_that_of_the_ranks(self, tmp_path, submission, job_id):
        run = a_run(tmp_path, submission={"cluster": "local"} | submission, job_id="6")
        assert status.row_of(run) == told(run, job_id=job_id)

    def test_rows_are_chosen_by_study_phase_and_name(self, tmp_path):
        first, second = (
            a_run(tmp_path, name, phase=phase) for name, phase in [("net-a", "done"), ("net-b", "failed")]
        )
        other = locate(str(tmp_path), "other", "net-c")
        other.path.mkdir(parents=True)
        other.config_file.touch()
        other.state_file.write_text(json.dumps({"phase": "done"}))

        def found(**filters):
            return [seen.run for seen in status.rows(tmp_path, **filters)]

        assert found() == [other.run_id, first.run_id, second.run_id]
        assert found(study="s") == ["net-a", "net-b"]
        assert found(phase="done") == ["net-c", "net-a"]
        assert found(name="-b") == ["net-b"]

    def test_who_asks_hears_of_folders_that_are_closed(self, tmp_path, monkeypatch):
        run, heard = a_run(tmp_path, phase="done"), []
        closed = tmp_path / "closed"
        closed.mkdir()
        may = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: path != closed and may(path, mode))
        assert [seen.run for seen in status.rows(tmp_path, say=heard.append)] == [run.run_id]
        (line,) = heard
        assert line.startswith(f"{closed} cannot be read: ")
        assert [seen.run for seen in status.rows(tmp_path)] == [run.run_id], "nobody need listen"

    def test_what_is_damaged_is_told_beside_the_rest(self, tmp_path, slurm):
        slurm.queues["/c.conf"] = []
        lost = a_run(tmp_path, "lost", phase="failed")
        lost.attempt(1).mkdir(parents=True)
        lost.rank_file(1, 0).write_text(json.dumps({"rank": 0, "outcome": "ERROR", "detail": "a bug"}))
        os.utime(lost.rank_file(1, 0), (NOW_S - 9, NOW_S - 9))
        lost.submission_file.unlink()
        lost.state_file.unlink()
        spoilt = a_run(tmp_path, "spoilt", phase="done")
        spoilt.state_file.write_text("{")
        os.utime(spoilt.state_file, (NOW_S, NOW_S))
        spoilt.submission_file.write_text("")
        first, second = status.rows(tmp_path)
        assert first == told(
            lost, 9.0, phase="failed", reason="ERROR", attempt=1, job_id=None,
            detail="a bug; state.json is missing", damage=("state.json is missing",),
        )  # fmt: skip
        damage = (
            "state.json is damaged (not JSON: EOF while parsing an object at line 1 column 1)",
            "submission.json is damaged (empty)",
        )
        assert second == told(
            spoilt, None, phase="submitted", job_id=None, scheduler="unreachable", damage=damage,
            detail="; ".join(damage),
        )  # fmt: skip

    def test_what_others_could_have_written_is_not_asked_about(self, tmp_path, slurm):
        run = a_run(tmp_path, detail="at work")
        run.submission_file.chmod(0o666)
        says = (
            "as its own files say: its folder others may write there (mode 0666): look at it, then chmod go-w"
        )
        assert status.rows(tmp_path) == [told(run, job_id=None, detail=f"at work; {says}")]
        assert status.row_of(run, even_if_final=True).detail == f"at work; {says}"
        assert slurm.asked == []


class TestExitCode:
    """The last witness, if neither the run's files nor its logs could be written."""

    @pytest.mark.parametrize("listed", [True, False], ids=["squeue and sacct", "sacct alone"])
    @pytest.mark.parametrize(
        ("code", "reason"), [(228, "DISK_FULL"), (205, "STORAGE_ERROR"), (1, "ERROR"), (None, "ERROR")]
    )
    def test_of_a_job_says_why_its_run_ended(self, tmp_path, slurm, listed, code, reason):
        run = a_run(tmp_path, age_s=99)
        slurm.queues["/c.conf"] = [Job("7", "FAILED", name=run.run_id)] if listed else []
        slurm.histories["/c.conf"] = [Job("7", "FAILED", name=run.run_id, exit_code=code)]
        (row,) = status.rows(tmp_path)
        assert (row.phase, row.reason) == ("failed", reason)
        assert ("exit code of job 7" in row.detail) == (reason != "ERROR")

    def test_of_a_run_that_should_come_back_counts_too(self, tmp_path, slurm):
        run = a_run(tmp_path, age_s=99, phase="requeued", reason="PREEMPTED")
        slurm.queues["/c.conf"] = []
        slurm.histories["/c.conf"] = [Job("7", "FAILED", name=run.run_id, exit_code=205)]
        (row,) = status.rows(tmp_path)
        assert (row.phase, row.reason) == ("failed", "STORAGE_ERROR")

    def test_of_a_study_s_job_is_not_one_run_s(self):
        job = Job("7", "FAILED", exit_code=228)
        assert status.settle(row("running", 99), job, of_study=True).reason == "ERROR"

    def test_gives_way_to_the_log(self, tmp_path, slurm):
        run = a_run(tmp_path, age_s=99)
        slurm.queues["/c.conf"] = []
        slurm.histories["/c.conf"] = [Job("7", "FAILED", name=run.run_id, exit_code=228)]
        run.submitit.mkdir()
        (run.submitit / "7_0_log.out").write_text("hpctrain: rank 1: DISK_FULL: checkpoints: no space\n")
        (row,) = status.rows(tmp_path)
        assert (row.reason, row.detail) == ("DISK_FULL", "checkpoints: no space")


class TestSlurm:
    def test_each_cluster_is_asked_once_for_its_own(self, tmp_path, slurm):
        slurm.queues = {
            "/c.conf": [Job("7", "RUNNING")],
            "/d.conf": [Job("7", "PENDING", "Priority"), Job("8", "RUNNING")],
        }
        on_d, away = (
            {"cluster": "c", "job_ids": ["7", "8"], "slurm_conf": conf} for conf in ("/d.conf", "/e.conf")
        )
        runs = [
            a_run(tmp_path, "a"), a_run(tmp_path, "b", submission=on_d),
            a_run(tmp_path, "c", submission={}, job_id="7"),
            a_run(tmp_path, "d", submission=away), a_run(tmp_path, "e", phase="submitted"),
        ]  # fmt: skip
        queues = client.Queues()
        expected = [
            told(runs[0], scheduler="RUNNING"), told(runs[1], scheduler="RUNNING", job_id="8"), told(runs[2]),
            told(runs[3], scheduler="unreachable", job_id="8"),
            told(runs[4], phase="starting", scheduler="RUNNING"),
        ]  # fmt: skip
        assert status.rows(tmp_path, queues=queues) == expected
        assert sorted(slurm.asked) == ["/c.conf", "/d.conf", "/e.conf"]
        status.rows(tmp_path, study="s", name="a", queues=queues)
        assert len(slurm.asked) == 3
        assert runs[3].read_state().phase == "running", "no answer is no end"

    def test_accounting_tells_of_what_has_left_the_queue(self, tmp_path, slurm):
        slurm.queues["/c.conf"] = [Job("7", "COMPLETED")]
        slurm.histories["/c.conf"] = [Job("7", "CANCELLED"), Job("8", "RUNNING")]
        two = {"cluster": "c", "job_ids": ["7", "8"], "slurm_conf": "/c.conf"}
        run = a_run(tmp_path, submission=two)
        assert status.row_of(run) == told(run, scheduler="COMPLETED"), "the queue comes first"
        slurm.queues["/c.conf"] = []
        detail = "accounting lists job 8 as RUNNING, but it is not in the queue"
        assert status.row_of(run) == told(run, scheduler="unknown", job_id="8", detail=detail)

    def test_a_job_whose_number_was_not_noted_is_the_run_s(self, tmp_path, slurm):
        slurm.queues["/c.conf"] = [Job("9", "RUNNING", comment="hpctrain:r:abc")]
        opened = {"cluster": "c", "job_ids": ["7"], "slurm_conf": "/c.conf", "open": True, "token": "abc"}
        run = a_run(tmp_path, submission=opened)
        assert status.row_of(run) == told(run, job_id="9", scheduler="RUNNING")

    def test_a_study_s_run_is_unlocked_with_the_study(self, tmp_path, slurm):
        slurm.queues["/c.conf"] = []
        of_study = {"cluster": "c", "job_ids": ["7"], "slurm_conf": "/c.conf", "study": True}
        run = a_run(tmp_path, submission=of_study)
        detail = NOT_KNOWN.format("sweep --unlock s")
        assert status.row_of(run) == told(run, scheduler="unknown", detail=detail)

    def test_a_task_of_which_the_queue_shows_the_others_alone_has_ended(self, tmp_path, slurm):
        slurm.queues["/c.conf"] = [Job("7_1", "PENDING", "Priority")]
        task = {"cluster": "c", "job_ids": ["7_2"], "slurm_conf": "/c.conf"}
        run = a_run(tmp_path, phase="submitted", submission=task)
        detail = "cancelled while it waited"
        ended = told(run, phase="cancelled", reason="CANCELLED", job_id="7_2", detail=detail)
        assert status.row_of(run) == ended
        # One that the queue does show has not.
        slurm.queues["/c.conf"].append(Job("7_2", "RUNNING"))
        other = a_run(tmp_path, "o", phase="submitted", submission=task)
        assert status.row_of(other) == told(other, phase="starting", job_id="7_2", scheduler="RUNNING")

    def test_a_job_that_may_be_a_damaged_run_s_is_told(self, tmp_path, slurm):
        run = a_run(tmp_path)
        run.submission_file.write_text("{}x")
        run.config_file.write_text("cluster: {name: c, kind: slurm, slurm_conf: /c.conf}")
        slurm.queues["/c.conf"] = [Job(job, "RUNNING", comment="hpctrain:r:abc") for job in ("5", "6", "7")]
        damage = "submission.json is damaged (not JSON: trailing characters at line 1 column 3)"
        detail = (
            "job 7 belongs to a run with this id, and Slurm does not say in which folder; "
            "if that is another folder: hpctrain checkpoints r --unlock"
        )
        assert status.row_of(run) == told(
            run, job_id="7", scheduler="unknown", detail=f"{detail}; {damage}", damage=(damage,)
        )
        # One that works for its folder is its own.
        slurm.queues["/c.conf"][1] = replace(slurm.queues["/c.conf"][1], command=str(run.submitit / "x.sh"))
        run.submitit.mkdir()
        assert status.row_of(run) == told(
            run, job_id="6", scheduler="RUNNING", detail=damage, damage=(damage,)
        )

    @pytest.mark.parametrize(
        ("phase", "age_s", "state", "advice"),
        [
            ("submitted", 2.0, "PENDING", "hpctrain cancel r, then hpctrain resume r"),
            ("running", 31.0, "RUNNING", "hpctrain cancel r, then hpctrain resume r"),
            ("running", 31.0, "FAILED", RESUMES),
            ("requeued", 2.0, "FAILED", RESUMES),
            ("starting", -99.0, "RUNNING", "hpctrain cancel r, then hpctrain resume r"),
            ("running", 30.0, "RUNNING", None),
            ("starting", 2.0, "RUNNING", None),
            ("failed", 99.0, "FAILED", None),
        ],
    )
    def test_a_folder_that_was_moved_is_told_unless_its_ranks_speak(
        self, tmp_path, slurm, phase, age_s, state, advice
    ):
        slurm.queues["/c.conf"] = [Job("7", state)]
        old = tmp_path / "old"
        moved = {"cluster": "c", "job_ids": ["7"], "slurm_conf": "/c.conf", "path": str(old)}
        run = a_run(tmp_path, phase=phase, age_s=age_s, submission=moved)
        words = f"its folder was moved from {old}, where its job looks for it: {advice}" if advice else None
        assert status.row_of(run, even_if_final=True).detail == words

    def test_of_a_final_run_slurm_is_asked_if_that_is_wanted(self, tmp_path, slurm):
        slurm.queues["/c.conf"] = [Job("7", "RUNNING")]
        run = a_run(tmp_path, phase="failed", job_id="6")
        assert status.row_of(run) == told(run, phase="failed", job_id="6")
        assert slurm.asked == []
        assert status.row_of(run, even_if_final=True) == told(run, phase="failed", scheduler="RUNNING")

    def test_an_end_that_slurm_alone_knew_is_kept(self, tmp_path, slurm):
        slurm.queues["/c.conf"] = [Job("7", "NODE_FAIL")]
        run = a_run(tmp_path)
        ended = told(
            run, phase="failed", reason="NODE_FAILURE", detail=no_word("NODE_FAIL"), scheduler="NODE_FAIL"
        )
        assert status.rows(tmp_path) == [ended]
        state = run.read_state()
        assert (state.phase, state.reason, state.detail) == ("failed", "NODE_FAILURE", no_word("NODE_FAIL"))
        slurm.queues["/c.conf"] = []
        assert status.rows(tmp_path)[0].reason == "NODE_FAILURE"

    def test_an_end_is_not_kept_while_somebody_starts_the_run(self, tmp_path, slurm):
        slurm.queues["/c.conf"] = [Job("7", "NODE_FAIL")]
        run = a_run(tmp_path)
        with lock.acquire(run.start_folder, 0):
            assert status.row_of(run).phase == "failed"
        assert run.read_state().phase == "running"

    def test_nor_if_the_run_has_said_something_meanwhile(self, tmp_path, slurm, monkeypatch):
        run = a_run(tmp_path)

        def late(conf):
            run.state.beat(step=9)
            return {"7": Job("7", "NODE_FAIL")}

        monkeypatch.setattr(client, "queue", late)
        assert status.row_of(run).phase == "failed"
        assert (run.read_state().phase, run.read_state().step) == ("running", 9)

    def test_nor_if_the_disk_does_not_take_it(self, tmp_path, slurm, monkeypatch):
        slurm.queues["/c.conf"] = [Job("7", "NODE_FAIL")]
        run = a_run(tmp_path)
        run.start_folder.touch()  # no folder can be made here
        assert status.row_of(run).phase == "failed"
        assert run.read_state().phase == "running"


class TestThisMachine:
    """Runs outside of Slurm."""

    LOST = "it sends no heartbeat, and none of its processes is left on this host"

    def a_run(self, folder, age_s=99.0, **state):
        return a_run(folder, age_s=age_s, submission={}, job_id="7", attempt=1, **state)

    def rank(self, run, number=0, **who):
        run.attempt(1).mkdir(parents=True, exist_ok=True)
        run.rank_file(1, number).write_text(json.dumps({"rank": number, "outcome": "running"} | who))

    def started_by(self, run, **changes):
        lock.acquire(run.start_folder, 0)._write(**changes)

    ELSEWHERE = {"boot": "another", "machine": "another", "host": "n1"}  # noqa: RUF012

    @pytest.mark.parametrize("phase", ["running", "starting", "submitted"])
    def test_one_without_a_process_is_lost(self, tmp_path, phase):
        run = self.a_run(tmp_path, phase=phase)
        lost = told(run, 99.0, attempt=1, phase="failed", reason="LOST", detail=self.LOST)
        assert status.rows(tmp_path) == [lost]
        assert (run.read_state().phase, run.read_state().detail) == ("failed", self.LOST)

    @pytest.mark.parametrize(("phase", "age_s"), [("running", 30.0), ("requeued", 99.0)])
    def test_but_not_one_that_spoke_just_now_or_waits(self, tmp_path, phase, age_s):
        run = self.a_run(tmp_path, age_s, phase=phase)
        assert status.rows(tmp_path) == [told(run, age_s, attempt=1, phase=phase)]

    def test_one_without_a_clock_may_just_have_begun(self, tmp_path):
        run = self.a_run(tmp_path, age_s=-99.0)
        assert status.rows(tmp_path) == [told(run, None, attempt=1)]

    def test_a_rank_that_lives_here_speaks_for_it(self, tmp_path):
        run, me = self.a_run(tmp_path), lock.this_process(1)
        self.rank(run, host=me.host, pid=me.pid, boot=me.boot, started=me.started)
        assert status.rows(tmp_path) == [told(run, 99.0, attempt=1)]
        self.rank(run, host=me.host, pid=me.pid, boot=me.boot, started="0")
        assert status.rows(tmp_path)[0].reason == "LOST"

    def test_whoever_started_it_and_lives_speaks_for_it(self, tmp_path):
        run = self.a_run(tmp_path)
        self.started_by(run)
        assert status.rows(tmp_path) == [told(run, 99.0, attempt=1)]

    def test_processes_elsewhere_are_not_seen(self, tmp_path):
        run = self.a_run(tmp_path)
        words = "runs on {}, whose processes cannot be seen from here"
        self.rank(run, 0, host=socket.gethostname(), pid=1, boot="another", started="0")
        self.rank(run, 1, host="n0", outcome="ERROR")
        self.rank(run, 2)
        self.rank(run, 3, host="n2")
        self.rank(run, 4, host="n3")
        assert status.rows(tmp_path) == [told(run, 99.0, attempt=1, detail=words.format("n2"))]
        self.started_by(run, **self.ELSEWHERE)
        assert status.rows(tmp_path) == [told(run, 99.0, attempt=1, detail=words.format("n1"))]

    def test_a_copy_has_no_jobs(self, tmp_path, slurm):
        original = tmp_path / "original"
        original.mkdir()
        run = a_run(tmp_path, submission={"cluster": "c", "job_ids": ["7"], "path": str(original)})
        detail = f"this folder is a copy of {original}, whose jobs are not its own"
        assert status.row_of(run) == told(run, job_id=None, detail=detail)
        assert slurm.asked == []

    @pytest.mark.parametrize(
        ("age_s", "starter", "ended", "waits"),
        [
            (30.0, None, None, False),
            (31.0, None, None, True),
            (31.0, {}, None, False),
            (31.0, {"ended": True}, None, True),
            (31.0, ELSEWHERE, None, True),
            (31.0, ELSEWHERE | {"job_id": "7"}, False, False),
            (31.0, ELSEWHERE | {"job_id": "7"}, True, True),
            (31.0, ELSEWHERE | {"job_id": "7"}, None, True),
        ],
    )
    def test_one_that_was_never_started_waits_if_nobody_is_at_it(
        self, tmp_path, monkeypatch, age_s, starter, ended, waits
    ):
        given = {"cluster": "local", "slurm_conf": "/c.conf"}
        run = a_run(tmp_path, phase="new", submission=given)
        os.utime(run.config_file, (NOW_S - age_s, NOW_S - age_s))
        if starter is not None:
            self.started_by(run, **starter)
        monkeypatch.setattr(client, "has_ended", lambda *job: ended if job == ("7", "/c.conf") else None)
        detail = "was never started, and nobody is known to start it: hpctrain resume r" if waits else None
        shown = told(run, None, phase="new", job_id=None, detail=detail, needs_start=waits)
        assert status.row_of(run) == shown

    def test_one_whose_configuration_is_gone_waits(self, tmp_path):
        run = a_run(tmp_path, phase="new", submission={})
        run.config_file.unlink()
        assert status.row_of(run).needs_start


WORD = "hpctrain: rank 1: DISK_FULL: checkpoints cannot be written\n"
DISK = "checkpoints cannot be written"


@pytest.mark.parametrize(
    ("own", "job", "log", "phase", "reason", "detail"),
    [
        ("running", Job("7", "FAILED"), WORD, "failed", "DISK_FULL", DISK),
        ("requeued", Job("7", "FAILED"), f"hpctrain: start 1 of job 7 on n\n{WORD}", "failed", "DISK_FULL", DISK),
        (
            "requeued",
            Job("7", "FAILED"),
            f"{WORD}hpctrain: start 1 of job 7 on n\nsrun: error\n",
            "interrupted",
            None,
            RESUMES,
        ),
        ("starting", Job("7", "FAILED"), WORD.replace("DISK_FULL", "IMPORT_ERROR"), "failed", "IMPORT_ERROR", DISK),
        ("requeued", Job("7", "PREEMPTED"), WORD.replace("DISK_FULL", "ERROR"), "interrupted", "PREEMPTED", RESUMES),
        ("running", Job("7", "NODE_FAIL"), WORD, "failed", "NODE_FAILURE", no_word("NODE_FAIL")),
        ("running", Job("7", "FAILED"), None, "failed", "ERROR", no_word("FAILED")),
    ],
)  # fmt: skip
def test_an_end_that_could_not_be_written_is_found_in_the_log(
    tmp_path, slurm, own, job, log, phase, reason, detail
):
    run = a_run(tmp_path, phase=own)
    if log is not None:
        run.submitit.mkdir()
        (run.submitit / "7_0_log.out").write_text(log)
    slurm.queues["/c.conf"] = [job]
    (found,) = status.rows(tmp_path)
    assert (found.phase, found.reason, found.detail) == (phase, reason, detail)
    state = run.read_state()
    assert (state.phase, state.reason, state.detail) == (phase, reason, detail)


@pytest.mark.parametrize(("log", "reason"), [(WORD, "DISK_FULL"), ("mpirun: lost\n", "ERROR"), ("", "LOST")])
def test_a_local_run_that_could_not_write_its_end(tmp_path, log, reason):
    run = a_run(tmp_path, age_s=99.0, submission={})
    (run.path / "launcher.log").write_text(log)
    (found,) = status.rows(tmp_path)
    assert found.reason == reason


class TestWatch:
    @pytest.fixture
    def at(self, monkeypatch):
        """Sets this process's clock."""
        clock = SimpleNamespace(monotonic=lambda: 100.0)
        monkeypatch.setattr(status, "time", clock)
        return lambda time_s: setattr(clock, "monotonic", lambda: time_s)

    def test_who_waits_hears_of_the_job_once_and_of_its_end(self, tmp_path, slurm, at):
        run, said = a_run(tmp_path, phase="submitted", age_s=99.0), []
        watch = status.Watch(run, said.append)
        answers = [Job("7", "PENDING", "Priority")] * 2 + [Job("7", "CANCELLED")]
        for turn, job in enumerate(answers):
            slurm.queues["/c.conf"] = [job]
            at(100.0 + 5.0 * turn)
            assert watch.ended() is (turn == 2)
        assert watch.ended() is True
        assert said == ["r: submitted: waiting: Priority"]
        assert run.read_state().phase == "cancelled"

    def test_slurm_is_asked_every_five_seconds(self, tmp_path, slurm, at):
        run, said = a_run(tmp_path, age_s=99.0), []
        watch = status.Watch(run, said.append)
        asked = []
        for time_s in (100.0, 104.9, 105.0, 109.9):
            at(time_s)
            assert watch.ended() is False
            asked.append(len(slurm.asked))
        assert asked == [1, 1, 2, 2]
        assert said == ["r: running: Slurm does not answer"]

    @pytest.mark.parametrize(("age_s", "asked"), [(3.0, 0), (3.5, 1), (-99.0, 1)])
    def test_and_only_of_a_silent_run(self, tmp_path, slurm, at, age_s, asked):
        assert status.Watch(a_run(tmp_path, age_s=age_s), lambda words: None).ended() is False
        assert len(slurm.asked) == asked


class TestTable:
    ROWS = (
        row("running", 3.4, scores={"loss": 0.51239, "accuracy": 0.25, "other": 1, "perplexity": "high"}),
        row("failed", 3.0, "ERROR", run="q", scheduler="FAILED", scores={"samples_per_s": 9.8765}),
        row("done", None, "DONE", run="p", progress=1.0, job_id=None, scores={"perplexity": 9}),
        row("submitted", None, "Priority", run="o\x1b", progress=None, scheduler="unknown"),
        row("starting", 12.0, run="n", progress=0.0, scheduler="unreachable"),
    )

    def drawn(self, rows, settings, width=120):
        console = Console(file=io.StringIO(), width=width)
        console.print(status.table(list(rows), settings))
        return [line.rstrip() for line in console.file.getvalue().splitlines()]

    def test_it_has_what_is_known(self):
        assert self.drawn(self.ROWS, {}) == [
            "run      state                                            progress  figures                    job",
            "s/r      running, last heartbeat 3 s ago                  50 %      loss 0.5124 accuracy 0.25  7",
            "s/q      failed (ERROR)                                   50 %      samples_per_s 9.877        7",
            "s/p      done                                             100 %     perplexity 9",
            r"s/o\x1b  submitted (Priority) [unknown]                                                        7",
            "s/n      starting, last heartbeat 12 s ago [unreachable]  0 %                                  7",
        ]

    def test_it_has_the_settings_of_a_sweep(self):
        assert self.drawn(self.ROWS[:2], {"r": "lr=0.1 api_key=x"}) == [
            "run  settings            state                            progress  figures                    job",
            "s/r  lr=0.1 api_key=***  running, last heartbeat 3 s ago  50 %      loss 0.5124 accuracy 0.25  7",
            "s/q                      failed (ERROR)                   50 %      samples_per_s 9.877        7",
        ]

    def test_a_run_s_name_is_not_cut(self):
        assert self.drawn(self.ROWS[:1], {}, width=40) == [
            "run  state      progress  figures    job",
            "s/r  running,   50 %      loss       7",
            "     last                 0.5124",
            "     heartbeat            accuracy",
            "     3 s ago              0.25",
        ]

    @pytest.mark.parametrize(
        ("phase", "colour"),
        [
            ("done", "green"),
            ("failed", "red"),
            ("running", "cyan"),
            ("submitted", "yellow"),
            ("new", "yellow"),
        ],
    )
    def test_a_phase_has_its_colour_and_what_follows_has_not(self, phase, colour):
        (cell,) = status.table([row(phase, None, "ERROR")], {}).columns[1].cells
        assert (cell.plain, cell.style) == (f"{phase} (ERROR)", colour)
        assert [(span.start, span.style) for span in cell.spans] == [(len(phase), "default")]

    def test_a_program_gets_all_but_what_the_detail_has(self):
        (found,) = status.as_json([self.ROWS[0]])
        assert found == {
            key: value for key, value in asdict(self.ROWS[0]).items() if key not in status._NOT_IN_JSON
        }
