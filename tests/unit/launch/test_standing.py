"""How a run stands for those who want to start it, on the word of Slurm or of this machine's processes."""

import json
import os
import shutil
import socket
from types import SimpleNamespace

import pytest

from hpctrain.errors import RunFailed, UserError
from hpctrain.launch import jobs, standing
from hpctrain.launch.standing import Standing
from hpctrain.scheduler import client
from hpctrain.scheduler.answers import Job
from hpctrain.storage import lock
from hpctrain.storage.search import locate

SLURM = {"cluster": "c", "job_ids": ["7"], "slurm_conf": "/c.conf"}


@pytest.fixture
def run(tmp_path):
    run = locate(str(tmp_path), "s", "net-1")
    run.create({})
    return run


@pytest.fixture(autouse=True)
def queue(monkeypatch):
    """What squeue answers."""
    jobs = []
    monkeypatch.setattr(client, "queue", lambda conf: {job.job_id: job for job in jobs})
    monkeypatch.setattr(client, "history", lambda *_: {})
    return jobs


def says(run, phase="running", submission=None, **state):
    """Has the run's own files say how it stands; `submission` {}: that it was never a job."""
    run.state_file.write_text(json.dumps({"phase": phase, "heartbeat": 0.0} | state))
    submission = SLURM if submission is None else submission
    if submission:
        run.submission_file.write_text(json.dumps(submission))


def refused(call, *given):
    """Returns the line with which a call refuses."""
    with pytest.raises(UserError) as refusal:
        call(*given)
    return str(refusal.value)


class TestLook:
    @pytest.mark.parametrize(
        ("phase", "job", "stands"),
        [
            ("submitted", "PENDING", Standing("7")),
            ("running", "RUNNING", Standing("7")),
            ("requeued", "COMPLETING", Standing("7")),
            ("running", "FAILED", Standing()),
            # Slurm knows better than a state that is final: the job is put back, or ends.
            ("interrupted", "PENDING", Standing("7")),
            ("failed", "COMPLETING", Standing(leaving="7")),
            ("failed", "FAILED", Standing()),
            ("done", "COMPLETING", Standing()),
        ],
    )
    def test_a_job_that_lives_stands_in_the_way(self, run, queue, phase, job, stands):
        says(run, phase)
        queue.append(Job("7", job))
        assert standing.look(run) == stands

    @pytest.mark.parametrize(
        ("job", "stands"), [("RUNNING", Standing(leaving="7")), ("PENDING", Standing("7"))]
    )
    def test_one_that_was_asked_to_stop_is_leaving_once_it_is_at_work(self, run, queue, job, stands):
        says(run)
        run.cancel_file.touch()
        queue.append(Job("7", job))
        assert standing.look(run) == stands

    def test_the_asker_s_own_job_does_not(self, run, queue):
        says(run)
        queue.append(Job("7", "RUNNING"))
        assert standing.look(run, besides="7") == Standing()
        assert standing.look(run, besides="6") == Standing("7")

    def test_the_job_of_a_study_does_not_once_the_run_has_ended(self, run, queue):
        says(run, "failed", SLURM | {"study": True})
        queue.append(Job("7", "RUNNING"))
        assert standing.look(run) == Standing()
        says(run, "running", SLURM | {"study": True})
        assert standing.look(run) == Standing("7")

    def test_nobody_starts_what_slurm_does_not_know(self, run):
        says(run)
        detail = (
            "Slurm knows nothing of job 7; if you know that it has ended: hpctrain checkpoints net-1 --unlock"
        )
        assert refused(standing.look, run) == f"run=net-1: {detail}"

    def test_but_what_has_ended_may_go_on(self, run):
        says(run, "failed")
        assert standing.look(run) == Standing()

    @pytest.mark.parametrize("phase", ["new", "running", "failed"])
    def test_a_run_without_jobs_and_processes_is_free(self, run, phase):
        says(run, phase, {})
        assert standing.look(run) == Standing()

    def test_a_job_of_this_machine_stands_in_the_way_while_its_launcher_lives(self, run):
        says(run, submission={"cluster": "local", "job_ids": ["77"]})
        with lock.acquire(run.start_folder, 0):
            assert standing.look(run) == Standing("77")
            says(run, "failed", {"cluster": "local", "job_ids": ["77"]})
            assert standing.look(run) == Standing()

    def test_a_run_that_goes_on_outside_of_jobs_is_looked_for_here(self, run):
        says(run, submission={"cluster": "local", "job_ids": ["77"], "newest": 0})
        with lock.acquire(run.start_folder, 0):
            assert standing.look(run) == Standing()
        TestProcesses.rank(run)
        assert "is being trained by" in refused(standing.look, run)


class TestProcesses:
    FOLLOW = "follow it with hpctrain logs -f net-1"

    @staticmethod
    def rank(run, **changes):
        me = lock.this_process(1)
        who = {
            "rank": 0,
            "outcome": "running",
            "host": me.host,
            "pid": me.pid,
            "boot": me.boot,
            "started": me.started,
        }
        run.attempt(1).mkdir(parents=True, exist_ok=True)
        run.rank_file(1, 0).write_text(json.dumps(who | changes))

    def starter(self, run, pid, /, **state):
        """The run is noted as started by a process of this machine."""
        owner = lock.process(pid)
        lock.acquire(run.start_folder, 0)._write(pid=pid, started=owner.started)
        says(run, submission={}, **({"host": owner.host, "pid": pid} | state))

    def test_a_rank_that_lives_here_is_named(self, run):
        self.rank(run)
        who = f"process {os.getpid()} on {socket.gethostname()}"
        line = f"run=net-1: RUN_LOCKED: is being trained by {who}; {self.FOLLOW}"
        assert refused(standing.refuse_if_running, run) == line

    def test_one_that_has_ended_is_not(self, run):
        self.rank(run, outcome="DONE")
        standing.refuse_if_running(run)

    def test_a_launcher_that_lives_here_is_named(self, run):
        self.starter(run, os.getppid())
        who = f"process {os.getppid()} on {socket.gethostname()}"
        line = f"run=net-1: RUN_LOCKED: is being started by {who}; {self.FOLLOW}"
        assert refused(standing.refuse_if_running, run) == line

    @pytest.mark.parametrize(
        "state", [{"phase": "failed"}, {"host": "n1"}, {"pid": 1}, {"host": None, "pid": None}]
    )
    def test_whoever_merely_submitted_it_is_not(self, run, state):
        self.starter(run, os.getppid(), **state)
        standing.refuse_if_running(run)

    def test_nor_this_process_itself(self, run):
        self.starter(run, os.getpid())
        standing.refuse_if_running(run)

    @pytest.mark.parametrize(
        "changes", [{"started": "0"}, {"ended": True}, {"boot": "another", "machine": "another"}]
    )
    def test_nor_one_that_is_not_known_to_live(self, run, changes):
        self.starter(run, os.getppid())
        lock.Term(run.start_folder, 1, lock.last_owner(run.start_folder))._write(**changes)
        standing.refuse_if_running(run)


class TestRight:
    @pytest.fixture
    def clock(self, monkeypatch):
        """A clock that only sleep moves: `slept` has each; `then` is called in the middle of it."""
        clock = SimpleNamespace(now_s=1000.0, slept=[], then=lambda: None)

        def sleep(time_s):
            clock.slept.append(time_s)
            clock.now_s += time_s
            clock.then()

        monkeypatch.setattr(standing, "time", SimpleNamespace(monotonic=lambda: clock.now_s, sleep=sleep))
        return clock

    def test_of_a_free_run_the_block_has_it(self, run):
        with standing.right_to_start(run) as stands:
            assert (stands.job_id, stands.leaving, stands.right.run) == (None, None, run)
            assert lock.last_owner(run.start_folder).ended is False
        assert lock.last_owner(run.start_folder).ended is True

    def test_with_it_comes_how_the_run_stands(self, run, queue):
        says(run)
        queue.append(Job("7", "RUNNING"))
        with standing.right_to_start(run) as stands:
            assert (stands.job_id, stands.right.run) == ("7", run)

    def test_a_job_that_was_submitted_and_not_noted_is_noted_first(self, run, queue):
        says(run, "submitted", SLURM | {"job_ids": [], "open": True, "token": "abc"})
        queue.append(Job("9", "PENDING", comment="hpctrain:net-1:abc"))
        with standing.right_to_start(run) as stands:
            assert stands.job_id == "9"
        assert (run.submission.read().job_ids, run.submission.read().open) == (("9",), False)

    def test_if_slurm_does_not_say_whether_there_is_one_whoever_submits_asks_again(self, run, monkeypatch):
        says(run, "failed", SLURM | {"open": True, "token": "abc", "study": True})

        def silent(conf):
            raise client.Unreachable("no answer")

        monkeypatch.setattr(client, "queue", silent)
        with standing.right_to_start(run) as stands:
            assert stands.right is not None

    def test_while_another_has_it_the_job_that_he_started_is_told(self, run, queue, clock):
        says(run)
        with lock.acquire(run.start_folder, 0):
            queue.append(Job("7", "RUNNING"))
            with standing.right_to_start(run) as stands:
                assert (stands, stands.right) == (Standing("7"), None)
        assert clock.slept == []

    def test_it_is_waited_for(self, run, clock):
        term = lock.acquire(run.start_folder, 0)
        clock.then = lambda: len(clock.slept) == 2 and term.release()
        with standing.right_to_start(run) as stands:
            assert stands.right.run == run
        assert clock.slept == [0.2, 0.2]

    def test_but_not_for_ever(self, run, clock, monkeypatch):
        monkeypatch.setattr(standing, "PATIENCE_S", 0.9)
        with (
            lock.acquire(run.start_folder, 0),
            pytest.raises(RunFailed, match=r"^RUN_LOCKED: process \d+ on .* is starting it$"),
            standing.right_to_start(run),
        ):
            pass
        assert clock.slept == [0.2] * 5

    def test_a_folder_that_was_removed_has_none(self, run):
        shutil.rmtree(run.path)
        line = "run=net-1: its folder was removed meanwhile; try again"
        assert refused(standing.right_to_start(run).__enter__) == line


class TestSubmit:
    def submitted(self, kind="slurm", after=None, **stands):
        """Returns the job that is told, and what the right to start was asked for."""
        asked = []

        def submit(config, job, after):
            asked.append((config, job, after))
            return "8"

        config = SimpleNamespace(cluster=SimpleNamespace(kind=kind))
        told = Standing(**stands, right=SimpleNamespace(submit=submit)).submit(config, after)
        return told, [(job, later) for given, job, later in asked if given is config]

    def test_what_is_under_way_is_not_submitted_again(self):
        assert self.submitted(job_id="7") == ("7", [])
        assert Standing("7").submit(SimpleNamespace()) == "7"

    @pytest.mark.parametrize(("kind", "job"), [("slurm", jobs.slurm_rank), ("local", jobs.local_job)])
    def test_a_free_run_is_a_job_of_its_cluster(self, kind, job):
        assert self.submitted(kind) == ("8", [(job, None)])

    def test_it_begins_after_what_is_leaving_or_what_it_is_told(self):
        assert self.submitted(leaving="6") == ("8", [(jobs.slurm_rank, "6")])
        assert self.submitted(leaving="6", after="7") == ("8", [(jobs.slurm_rank, "7")])
