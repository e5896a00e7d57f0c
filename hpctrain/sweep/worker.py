"""A job of a study: it takes one piece of work after another, `runs_at_once` at a time, until none is left.

Takes a study's folder. Runs of one rank are forked from this process, which has torch in memory already; runs
of several ranks are a Slurm step (or mpirun) each. Side effects: the runs' own files, claims, records of how runs
ended.
The study goes on whatever is killed, and whenever: another job takes a claim whose owner has ended.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import sys
import time
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hpctrain import job_environment
from hpctrain.config.load import from_dict
from hpctrain.config.settings import Config
from hpctrain.config.swept import Swept, from_json
from hpctrain.data import identify
from hpctrain.errors import RunFailed, UserError
from hpctrain.launch.processes import Process, preload, start
from hpctrain.launch.standing import Standing, look
from hpctrain.launch.start import hold
from hpctrain.scheduler import client
from hpctrain.scheduler.time_limit import TimeLimit
from hpctrain.storage.full_disk import patiently
from hpctrain.storage.lock import this_process
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Phase, Reason, Submission, reason_of_oserror
from hpctrain.sweep.claims import JUDGED, Claim
from hpctrain.sweep.outcome import judge
from hpctrain.sweep.settings import SweepConfig, objective, sweep_config
from hpctrain.sweep.study_dir import Ended, JobRecord, StudyDir, Trial
from hpctrain.sweep.work_queue import WorkQueue
from hpctrain.training.stop import StopFlag

POLL_S = 0.1
WAIT_S = (1.0, 5.0)  # between looks for more work, while others' results may bring some
REFUSALS = 6  # tries of a run that another process has, or may have, over some minutes
RELAY_S = 2.0  # a run that was asked to stop is asked again this often


@dataclass
class Slot:
    """One of the places for runs that go on at the same time."""

    number: int
    claim: Claim | None = None
    process: Process | None = None
    token: str = ""  # names this start
    began: float = 0.0
    asked_at: float = 0.0


@dataclass
class Refused:
    """A piece of work that another process has, or may have: how often this job tried, and when it tries again."""

    times: int = 0
    until_s: float = 0.0


@dataclass
class Job:
    """What a job knows of its study."""

    study: StudyDir
    settings: SweepConfig
    metric: str
    work_queue: WorkQueue
    slots: list[Slot]
    job_id: str | None
    stop: StopFlag
    quota: int | None
    taken: int = 0
    refused: dict[str, Refused] = field(default_factory=dict)
    full: str | None = None  # which part of the disk is full; then no further run begins
    token: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    began: float = field(default_factory=lambda: began_at())

    @property
    def busy(self) -> list[Slot]:
        """The slots that have a run."""
        return [slot for slot in self.slots if slot.process is not None]


def work_on(path: str, quota: int | None = None) -> None:
    """Does the whole job; submitit calls it. It does at most `quota` runs (None: until nothing is left).

    Exits with 1 if it cannot go on.
    """
    os.umask(0o077)
    study = StudyDir(Path(path), own=True)
    try:
        job = _join(study, quota)
        _work(job)
    except (RunFailed, UserError, OSError) as error:
        print(f"hpctrain: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
    if job.full:
        print(f"hpctrain: {Reason.DISK_FULL}: {job.full}", file=sys.stderr, flush=True)
        sys.exit(1)
    if job.stop.reason:
        _come_back(job)


def _join(study: StudyDir, quota: int | None) -> Job:
    part = study.parts()[-1]
    settings = sweep_config(part["sweep"])
    metric, more = objective(settings, part["task"])
    space: list[Swept] = from_json(part["space"])
    job_id, stop = job_environment.read().job_id, StopFlag()
    if job_id:
        stop.limit = TimeLimit(functools.partial(client.time_left, job_id), float(part["signal_s"]))
    stop.install()
    suggest = None
    if settings.adaptive:
        from hpctrain.sweep.samplers import Search

        suggest = Search(study, settings, space, part["fixed"], more).suggest
    if part["ranks"] == 1:
        preload()
    slots = [Slot(n) for n in range(settings.runs_at_once)]
    work_queue = WorkQueue(study, settings, more, suggest)
    return Job(study, settings, metric, work_queue, slots, job_id, stop, quota)


def _work(job: Job) -> None:
    """Works until nothing is left to take and every slot is empty, or the job is told to stop."""
    place = job_environment.read()
    restarted, index = place.restarts > 0, int(place.array_task_id or 0)
    patience_s, look_at = WAIT_S[0], 0.0
    _note(job)
    try:
        while True:
            for slot in job.busy:
                _attend(job, slot)
            if job.stop.limit is not None:  # not in a thread: this process forks
                job.stop.limit.look()
            stopping = job.stop.poll() is not None
            free = [slot for slot in job.slots if slot.process is None]
            over = bool(job.full) or (job.quota is not None and job.taken >= job.quota)
            if free and not stopping and not over and time.monotonic() >= look_at:
                claim = None
                try:
                    take = functools.partial(job.work_queue.take, index, restarted, _left_alone(job))
                    claim = patiently(take)
                    if claim:
                        restarted, patience_s, look_at = False, WAIT_S[0], 0.0
                        _begin(job, free[0], claim)
                except (OSError, RunFailed) as error:
                    job.full = _full(error)  # runs under way may still find room
                    _give_back(free[0])
                    continue
                if claim:
                    continue
                if not job.busy and not job.work_queue.waits and not _tries_again(job):
                    return
                look_at = time.monotonic() + patience_s * random.uniform(0.7, 1.3)
                patience_s = min(patience_s * 1.5, WAIT_S[1])
            elif not job.busy and (stopping or over):
                return
            time.sleep(POLL_S)
    finally:
        for slot in job.busy:  # not empty only after an error
            assert slot.process is not None
            slot.process.kill()
        _note(job, until=time.time())


def _left_alone(job: Job) -> set[str]:
    """The keys of work that this job does not try now, or no longer tries."""
    now_s = time.monotonic()
    return {key for key, it in job.refused.items() if it.times >= REFUSALS or now_s < it.until_s}


def _tries_again(job: Job) -> bool:
    """Whether this job will try again some work that another process had."""
    now_s = time.monotonic()
    return any(it.times < REFUSALS and now_s < it.until_s for it in job.refused.values())


def _refuse(job: Job, claim: Claim) -> None:
    """Leaves a run that another process has, or may have: each time for longer, in the end for good."""
    refused = job.refused.setdefault(claim.work.key, Refused())
    refused.until_s = time.monotonic() + WAIT_S[1] * 2**refused.times
    refused.times += 1


def _begin(job: Job, slot: Slot, claim: Claim) -> None:
    """Starts the run of a claim, unless it has nothing left to do, or another process has it."""
    trial, run = job.work_queue.trials[claim.work.run_id], job.study.run(claim.work.run_id)
    slot.claim, slot.token, slot.began, slot.asked_at = claim, "", time.monotonic(), 0.0
    for record in claim.earlier:
        if "damage" in record:
            _say(record["damage"])
    config = patiently(lambda: _prepare(job, run, trial, claim))
    if config is None:
        patiently(lambda: claim.close("locked"))
        slot.claim = None
        return _refuse(job, claim)
    job.taken += claim.work.rung == 0
    if run.read_state().phase == Phase.DONE:
        return _end(job, slot)
    slot.process = start(run, config, f"{claim.work.rung}.{claim.number}", slot.number, len(job.slots))
    slot.token = slot.process.token
    return _note(job)


def _prepare(job: Job, run: RunDir, trial: Trial, claim: Claim) -> Config | None:
    """Makes the run's folder for this piece of work and returns the settings; None if another process has the run."""
    run.create(trial.config)
    with contextlib.ExitStack() as right:
        try:
            right.enter_context(hold(run))
            other = look(run, besides=job.job_id)
            if other != Standing():
                raise RunFailed(
                    Reason.RUN_LOCKED, f"{run.run_id} is under way as job {other.job_id or other.leaving}"
                )
        except (UserError, RunFailed) as error:
            print(f"hpctrain: {error}", file=sys.stderr, flush=True)
            return None
        return _note_start(job, run, trial, claim)


def _note_start(job: Job, run: RunDir, trial: Trial, claim: Claim) -> Config:
    """Writes what the run needs to know about this start; returns its settings."""
    config = from_dict(trial.config)
    identify.note(run, config, trial.contents)
    run.cancel_file.unlink(missing_ok=True)
    run.pause_at(claim.work.epochs)
    study, job_ids = job.study, [job.job_id] if job.job_id else []
    conf, path = study.parts()[-1].get("slurm_conf"), str(run.path)
    mine = Submission(config.cluster.name, study=True, slurm_conf=conf, path=path)
    run.submission.write(mine.with_jobs(job_ids, study.comment, study.job_name))
    if run.read_state().phase != Phase.DONE:
        run.state.starting(first=not claim.goes_on, job_id=job.job_id)
    return config


def _attend(job: Job, slot: Slot) -> None:
    """Passes a request to stop on to the run, and ends the work if the run has ended."""
    assert slot.process is not None
    assert slot.claim is not None
    if slot.process.poll() is not None:
        return _end(job, slot)
    run = job.study.run(slot.claim.work.run_id)
    cancelled = run.cancel_file.exists()
    if (job.stop.reason or cancelled) and time.monotonic() - slot.asked_at > RELAY_S:
        slot.asked_at = time.monotonic()
        slot.process.ask_to_stop(Reason.INTERRUPTED if cancelled else str(job.stop.reason))
    return None


def _end(job: Job, slot: Slot) -> None:
    """Notes how a piece of work ended, and frees the slot."""
    claim = slot.claim
    assert claim is not None
    code = slot.process.poll() if slot.process else None
    slot.claim = slot.process = None
    _note(job)
    run = job.study.run(claim.work.run_id)
    end = judge(run, claim, job.metric, slot.token, job.stop.reason, slot.asked_at > 0, code)
    detail = end.ended and end.ended["detail"]
    if end.reason == Reason.DISK_FULL:  # that is not the run's fault, and the next runs would fail as well
        job.full = str(detail)
        return patiently(lambda: claim.close("stopped", reason=end.reason))
    spent_s = time.monotonic() - slot.began
    if end.outcome in JUDGED and end.ended:
        ended: Ended = {**end.ended, "seconds": spent_s, "job": job.token}
        patiently(lambda: job.study.write_ended(claim.work, ended))
    if end.outcome == "locked":
        _refuse(job, claim)
    else:
        job.refused.pop(claim.work.key, None)
    if end.outcome == "failed":
        print(f"{run.run_id} failed: {end.reason}: {detail}", flush=True)
    # Work that is not over goes on in this job when it comes back, or in another one.
    return patiently(lambda: claim.close(end.outcome, reason=end.reason, seconds=spent_s, job=job.token))


def _give_back(slot: Slot) -> None:
    """Gives back the work of a slot that could not begin it: another job takes it."""
    claim, slot.claim = slot.claim, None
    if claim is not None:
        with contextlib.suppress(OSError):
            claim.close("stopped", reason=Reason.DISK_FULL)


def _full(error: OSError | RunFailed) -> str:
    """Returns what is full. Raises the error if it is not about a full disk."""
    reason = error.reason if isinstance(error, RunFailed) else reason_of_oserror(error)
    if reason != Reason.DISK_FULL:
        raise error
    return error.detail if isinstance(error, RunFailed) else str(error)


def _come_back(job: Job) -> None:
    """Puts the job back into the queue after an orderly stop, unless Slurm does so or the study was cancelled."""
    if job.job_id is None or job.study.cancel_file.exists():
        return
    if job.stop.reason == Reason.TERMINATED and not client.in_grace(job.job_id, _say):
        return  # scancel, or Slurm puts it back itself
    try:
        client.requeue(job.job_id, job_environment.read().restarts, _say)
    except client.Unreachable as error:
        _say(f"not requeued ({error}); hpctrain sweep submits a new job")


def _say(words: str) -> None:
    print(f"hpctrain: {words}", file=sys.stderr, flush=True)


def _note(job: Job, until: float | None = None) -> None:
    """Writes the job's own record: its slots, and from when to when it holds them."""
    with contextlib.suppress(OSError):
        record: JobRecord = {
            "job_id": job.job_id, "lanes": len(job.slots), "began": job.began, "until": until,
            "owner": asdict(this_process(0)), "seen": time.time(),
            "quota": job.quota, "taken": job.taken, "busy": len(job.busy),
        }  # fmt: skip
        job.study.write_job(job.token, record)


def began_at() -> float:
    """Returns when this process began: its imports are part of the time that the job holds its slots."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    up_s = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - up_s + ticks / os.sysconf("SC_CLK_TCK")
