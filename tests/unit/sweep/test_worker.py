"""A job of a study, with runs that end in every way and at every moment: what is noted, and what is tried again."""

import dataclasses
import errno
import functools
import json

import pytest

from hpctrain.config import sweep_grammar
from hpctrain.config.load import from_dict
from hpctrain.data import identify
from hpctrain.errors import RunFailed
from hpctrain.scheduler import client
from hpctrain.scheduler.answers import Job
from hpctrain.scheduler.time_limit import TimeLimit
from hpctrain.storage import full_disk
from hpctrain.storage.last_word import exit_code
from hpctrain.storage.run_dir import RunDir, claim_attempt
from hpctrain.storage.run_state import StateFile
from hpctrain.sweep import claims, space, worker
from hpctrain.sweep.outcome import TRIES
from hpctrain.sweep.settings import SweepConfig
from hpctrain.sweep.study_dir import StudyDir, Work, stored
from hpctrain.sweep.work_queue import WorkQueue
from hpctrain.training.stop import StopFlag

ASHA = SweepConfig(pruner="asha", metric="accuracy", reduction=2)  # rungs at 1, 2 and 4 epochs


@functools.cache
def trials():
    composer = sweep_grammar.Composer(["experiment=lenet_digits", "train.epochs=4"])
    return [space.trial(composer, (f"optimizer.lr={lr}",))[0] for lr in (0.1, 0.2)]


class Ended:
    """A run's process that has ended."""

    def __init__(self, token, code):
        self.token, self.code = token, code

    def poll(self):
        return self.code


class Script:
    """In place of processes.start: each start plays the next of the acts, then the last one again and again."""

    def __init__(self, *acts):
        self.acts, self.names, self.job = list(acts), [], None

    def __call__(self, run, config, name, slot, slots):
        self.names.append(name)
        act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
        token = f"{name}.{len(self.names)}"
        return Ended(token, act(run, token, self.job) or 0)


def trains(run, token, job):
    """To its rung or its end, as a real run does."""
    claim_attempt(run, token)
    upto = run.read_pause() or 4
    lines = [{"kind": "validation", "epoch": float(e), "accuracy": e / 10} for e in range(1, upto + 1)]
    run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = upto == 4
    run.state.beat(
        phase="done" if done else "interrupted", reason="DONE" if done else "PAUSED", step=upto * 10
    )


def never_begins(run, token, job):
    """Killed between fork and its first file."""


def never_says_who(run, token, job):
    """Killed between its attempt's folder and its first words."""
    claim_attempt(run, token)


def dies(run, token, job):
    """kill -9 while it trains."""
    attempt = claim_attempt(run, token)
    run.rank_file(attempt, 0).write_text(json.dumps({"rank": 0, "outcome": "running"}))
    run.state.beat(phase="running", step=3)


def fails(reason):
    def act(run, token, job):
        failure = {"rank": 0, "reason": reason, "detail": "d"}
        run.claim_failure(claim_attempt(run, token), failure)
        run.state.beat(phase="failed", **failure)

    return act


def first_run(act):
    """The act for the first of the two runs; the other one trains."""
    return lambda run, *rest: (act if run.run_id == trials()[0].run_id else trains)(run, *rest)


def preempted(act):
    """The job is told to stop while the run starts; the run has been told as well when it ends by `act`."""

    def play(run, token, job):
        job.stop.reason = "PREEMPTED"
        job.slots[0].asked_at = 1.0
        act(run, token, job)

    return play


@pytest.fixture
def study(tmp_path):
    made = StudyDir(tmp_path / "runs" / "s")
    made.create()
    made.add_part({"trials": [dataclasses.asdict(t) for t in trials()]})
    return made


@pytest.fixture
def play(study, monkeypatch):
    """One job of the study: its runs play the acts; returns how each piece of work ended."""
    monkeypatch.setattr(worker, "POLL_S", 0.0)
    monkeypatch.setattr(worker, "WAIT_S", (0.0, 0.0))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)

    def run(*acts, settings=ASHA, quota=None, limit=None):
        script = Script(*acts)
        monkeypatch.setattr(worker, "start", script)
        queue = WorkQueue(study, settings, higher_is_better=True)
        job = worker.Job(
            study,
            settings,
            "accuracy",
            queue,
            [worker.Slot(0)],
            None,
            StopFlag(limit),
            quota,
            token=str(id(script)),
        )
        script.job = job
        worker._work(job)
        return script

    return run


def test_a_job_at_its_time_limit_begins_no_run(study, play):
    script = play(limit=TimeLimit(lambda: 100.0, margin_s=120.0))
    assert (script.job.stop.reason, script.names) == ("TIME_LIMIT", [])


def test_a_job_asks_slurm_beside_its_runs(study, play):
    asked = []
    script = play(trains, limit=TimeLimit(lambda: asked.append(1) or 3600.0, margin_s=120.0))
    assert (script.job.stop.reason, asked) == (None, [1])
    assert len(script.names) == 3


def ended(study, run_id=None):
    run_id = run_id or trials()[0].run_id
    return {k.rpartition(".")[2]: f for k, f in study.ended().items() if k.startswith(run_id)}


def outcomes(study, key):
    last = claims.newest(study.claims).get(key, 0)
    return [claims.read(study.claims, key, n).get("outcome") for n in range(1, last + 1)]


def test_two_runs_and_the_better_one_goes_on(study, play):
    script = play(trains)
    phases = sorted((k.rpartition(".")[2], f["phase"], f["epochs"]) for k, f in study.ended().items())
    assert phases == [("0", "paused", 1.0), ("0", "paused", 1.0), ("1", "paused", 2.0)]
    assert script.names == ["0.1", "0.1", "1.1"], "a rung's start is no other rung's"


@pytest.mark.parametrize("act", [never_begins, never_says_who, dies])
def test_a_run_killed_at_any_moment_of_its_second_rung_is_tried_again(study, play, act):
    play(trains, trains, act, trains)
    (rung,) = [facts for key, facts in study.ended().items() if key.endswith(".1")]
    assert (rung["phase"], rung["epochs"]) == ("paused", 2.0)


@pytest.mark.parametrize("act", [never_begins, never_says_who, dies, fails("ERROR"), fails("RANK_KILLED")])
def test_a_run_that_ends_while_its_job_is_preempted_is_not_judged(study, play, act):
    play(trains, trains, preempted(act))
    assert [key for key in study.ended() if key.endswith(".1")] == []
    play(trains)
    (rung,) = [facts for key, facts in study.ended().items() if key.endswith(".1")]
    assert (rung["phase"], rung["epochs"]) == ("paused", 2.0)


def test_a_preempted_run_waits_for_its_job(study, play):
    play(preempted(dies))
    assert study.run(trials()[0].run_id).read_state().phase == "interrupted"
    assert study.ended() == {}


def test_many_orderly_stops_do_not_use_up_a_run_s_tries(study, play):
    for _ in range(TRIES + 2):
        play(preempted(never_begins))
    play(dies, trains)
    assert {facts["phase"] for facts in ended(study).values()} == {"paused"}


def test_what_dies_again_and_again_is_failed_and_the_other_goes_on(study, play):
    play(first_run(dies))
    first, second = (ended(study, t.run_id) for t in trials())
    assert (first["0"]["phase"], first["0"]["reason"]) == ("failed", "RANK_KILLED")
    assert second["0"]["phase"] == "paused"


@pytest.mark.parametrize("reason", ["ERROR", "NAN_PERSISTENT", "DATA_ERROR"])
def test_a_run_that_fails_by_itself_fails_at_once(study, play, reason):
    play(fails(reason), trains)
    assert outcomes(study, f"{trials()[0].run_id}.0") == ["failed"]
    assert ended(study)["0"]["reason"] == reason


def test_failed_runs_that_are_retried_have_all_tries_again(study, play):
    play(first_run(dies))
    study.open_again(trials()[0].run_id)
    play(*[dies] * (TRIES - 1), trains)
    assert ended(study)["0"]["phase"] == "paused"


def test_an_older_failure_is_not_read_as_this_start_s(study, play):
    play(fails("NAN_PERSISTENT"), trains)
    study.open_again(trials()[0].run_id)
    play(never_begins, trains)
    assert ended(study)["0"]["phase"] == "paused"


def test_work_that_ended_since_we_looked_is_not_done_twice(study, monkeypatch):
    """Another job notes a rung between this one's look and its claim; a third takes the run to the next rung."""
    run_id = trials()[0].run_id
    work = Work(run_id, 0, 1)
    other = claims.take(study.claims, work)
    queue = WorkQueue(study, ASHA, higher_is_better=True)
    refresh = queue.refresh

    def look_and_be_slow():
        refresh()
        if other.path.exists() and not study.has_ended(work):
            study.write_ended(
                work, {"phase": "paused", "value": 0.5, "epochs": 1.0, "reason": "PAUSED", "detail": None}
            )
            other.close("paused")

    monkeypatch.setattr(queue, "refresh", look_and_be_slow)
    taken = queue.take(leftovers_first=True)
    assert taken.work.run_id != run_id
    assert outcomes(study, work.key) == ["paused", "ended"]


def test_a_rung_is_not_open_before_the_one_below_has_ended(study, play):
    play(trains)
    best = next(key.rpartition(".")[0] for key in study.ended() if key.endswith(".1"))
    study.open_again(best)  # as if its folder had been deleted
    queue = WorkQueue(study, ASHA, higher_is_better=True)
    queue.refresh()
    assert [work.rung for work in queue._open()] == [0]
    play(trains)
    assert {rung: facts["epochs"] for rung, facts in ended(study, best).items()} == {"0": 1.0, "1": 2.0}


def test_a_rung_that_stopped_short_is_not_noted_as_reached(study, play):
    def astray(run, token, job):  # as if another process had changed where it pauses
        run.pause_at(1)
        trains(run, token, job)

    play(trains, trains, astray, trains)
    (rung,) = [facts for key, facts in study.ended().items() if key.endswith(".1")]
    assert (rung["phase"], rung["epochs"]) == ("paused", 2.0)


def test_a_job_killed_before_it_could_note_a_result_leaves_it_to_the_next(study, play, monkeypatch):
    """kill -9 after the run is done: the next job notes it and does not train again."""
    full = dataclasses.replace(ASHA, pruner="none")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(StudyDir, "write_ended", killed)
        with pytest.raises(KeyboardInterrupt):
            play(trains, settings=full)
    (file,) = study.claims.glob("*.0.1.json")  # its owner is a process that has ended
    record = json.loads(file.read_text())
    record["owner"]["started"] = "0"
    file.write_text(json.dumps(record))
    script = play(trains, settings=full)
    assert len(script.names) == 1, "the other run alone"
    assert {f["phase"] for f in study.ended().values()} == {"done"}
    assert len(study.ended()) == 2


def test_a_cancelled_run_does_not_go_on(study, play):
    def cancelled(run, token, job):
        run.cancel_file.touch()
        trains(run, token, job)
        run.state.beat(phase="cancelled", reason="CANCELLED")

    play(cancelled, cancelled, trains)
    assert {facts["phase"] for facts in study.ended().values()} == {"cancelled"}


def test_a_full_disk_ends_the_job_and_fails_no_run(study, play, monkeypatch, capsys):
    script = play(fails("DISK_FULL"), trains)
    assert script.job.full == "d"
    assert len(script.names) == 1
    assert study.ended() == {}
    monkeypatch.setattr(worker, "_join", lambda study, quota: script.job)
    monkeypatch.setattr(worker, "_work", lambda job: None)
    with pytest.raises(SystemExit) as caught:
        worker.work_on(str(study.path))
    assert caught.value.code == 1
    assert "DISK_FULL: d" in capsys.readouterr().err
    monkeypatch.undo()
    play(trains)
    assert {facts["phase"] for facts in study.ended().values()} == {"paused"}


@pytest.mark.parametrize("act", [never_begins, never_says_who, dies])
def test_a_run_that_could_not_even_write_that_the_disk_is_full(study, play, act):
    def full(*where):
        act(*where)
        return exit_code("DISK_FULL")

    script = play(full, trains)
    assert script.job.full
    assert len(script.names) == 1
    assert study.ended() == {}
    assert study.run(trials()[0].run_id).read_state().reason == "DISK_FULL"


class FullAt:
    """The named function fails the `times` next times that it is called, as on a full disk."""

    def __init__(self, monkeypatch, owner, name, times):
        self.left, real = times, getattr(owner, name)

        def failing(*args, **kwargs):
            if self.left:
                self.left -= 1
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, failing)


MOMENTS = [
    (WorkQueue, "take"), (RunDir, "create"), (StateFile, "starting"), (StudyDir, "write_ended"), (claims.Claim, "close")
]  # fmt: skip


@pytest.mark.parametrize(("owner", "name"), MOMENTS)
def test_a_disk_that_is_full_for_a_moment_costs_nothing(study, play, monkeypatch, owner, name):
    monkeypatch.setattr(full_disk, "AGAIN_S", 0.0)
    full = FullAt(monkeypatch, owner, name, 3)
    script = play(trains)
    assert (full.left, script.job.full) == (0, None)
    assert len(study.ended()) >= 2
    assert not any(facts["phase"] == "failed" for facts in study.ended().values())


@pytest.mark.parametrize(("owner", "name"), MOMENTS[:3])
def test_a_disk_that_stays_full_ends_the_job_but_not_its_other_runs(study, play, monkeypatch, owner, name):
    monkeypatch.setattr(full_disk, "AGAIN_S", 0.0)
    monkeypatch.setattr(full_disk, "PATIENCE_S", 0.0)
    FullAt(monkeypatch, owner, name, 1)
    script = play(trains)
    assert "No space left" in script.job.full
    assert study.ended() == {}
    monkeypatch.undo()
    play(trains)
    assert all(facts["phase"] != "failed" for facts in study.ended().values())


def test_a_run_that_another_process_owns_is_left_to_it(study, play):
    def locked(run, token, job):
        failure = {"rank": 0, "reason": "RUN_LOCKED", "detail": "d"}
        run.claim_failure(claim_attempt(run, token), failure)

    play(locked, trains)
    assert outcomes(study, f"{trials()[0].run_id}.0") == ["locked", "paused"]


def locked(run, token, job):
    run.claim_failure(claim_attempt(run, token), {"rank": 0, "reason": "RUN_LOCKED", "detail": "d"})


def test_a_job_does_not_try_for_ever_what_another_owns(study, play):
    script = play(first_run(locked))
    assert outcomes(study, f"{trials()[0].run_id}.0") == ["locked"] * worker.REFUSALS
    assert ended(study, trials()[1].run_id)["0"]["phase"] == "paused"
    assert not script.job.busy


def of_a_job(path, job_id="77"):
    """As if a job on another machine had made the claim."""
    record = json.loads(path.read_text())
    record["owner"] |= {"boot": "another x", "machine": "another", "host": "another", "job_id": job_id}
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("told", "outcome", "waits"),
    [
        ([Job("77", "RUNNING")], None, True),
        ([Job("77", "A_NEW_WORD")], None, True),
        ([Job("77", "COMPLETED")], None, False),  # taken over at once
        ([], None, False),  # nobody can tell, perhaps for ever
        ([], "unlocked", False),
        (None, None, True),  # Slurm will answer some day
    ],
)
def test_a_job_with_nothing_to_do_waits_for_those_who_are_known_to_live(
    study, play, monkeypatch, told, outcome, waits
):
    def queue(conf):
        if told is None:
            raise client.Unreachable("away")
        return {job.job_id: job for job in told}

    monkeypatch.setattr(client, "queue", queue)
    monkeypatch.setattr(client, "history", lambda ids, conf: {})
    work = Work(trials()[0].run_id)
    claim = claims.take(study.claims, work)
    of_a_job(claim.path)
    if outcome:
        claim.close(outcome)
    settings, more = ASHA, True
    queue = WorkQueue(study, settings, more)
    taken = [claim.work.run_id for claim in iter(queue.take, None)]
    free = outcome == "unlocked" or (told and told[0].state == "COMPLETED")
    assert sorted(taken) == sorted(t.run_id for t in (trials() if free else trials()[1:]))
    of_others = WorkQueue(study, settings, more)
    of_others.refresh()
    monkeypatch.setattr(of_others, "_open", lambda: [of_others.work(work.run_id, 0)])
    assert of_others._below_the_top() is (waits or bool(free))


def trains_if_unchanged(run, token, job):
    """Rank 0 looks at the data, as in training/session.py, before it trains."""
    try:
        identify.refuse_change_here(run, from_dict(run.read_config()))
    except RunFailed as error:
        failure = {"rank": 0, "reason": str(error.reason), "detail": error.detail}
        run.claim_failure(claim_attempt(run, token), failure)
        run.state.beat(phase="failed", **failure)
    else:
        trains(run, token, job)


@pytest.mark.parametrize("begun", [False, True])
def test_data_changed_after_the_sweep_command_is_named(tmp_path, play, study, monkeypatch, begun):
    """Before a trial's first start, as before a later one: its id says which data it was to train on."""
    monkeypatch.setenv("HPCTRAIN_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("one.txt", "two.txt"):
        (folder / name).write_text("as it was\n" * 99)
    words = ["experiment=char_lstm_python", "data=text", f"data.path={folder}", "train.epochs=4"]
    added = space.trial(sweep_grammar.Composer(words), ("optimizer.lr=0.1",))[0]
    study.add_part({"trials": [stored(added)]})
    if begun:
        play(trains_if_unchanged, quota=3)
        assert study.read_ended(f"{added.run_id}.0")["phase"] == "paused"
    (folder / "two.txt").write_text("as it is now\n" * 99)
    identify.forget()  # a later job is another process
    if begun:
        study.open_again(added.run_id)
    play(trains_if_unchanged)
    ended = study.read_ended(f"{added.run_id}.0")
    assert (ended["phase"], ended["reason"]) == ("failed", "DATA_ERROR")
    assert "two.txt has changed since the run began" in ended["detail"]
