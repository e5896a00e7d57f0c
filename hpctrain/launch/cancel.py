"""Asks a run to stop, wherever it is: in a queue, on a cluster, on this machine, or in a terminal of another host.

Slurm and the processes say what lives; the run's own files may be out of date. Side effects: the run's `cancel` file,
for which rank 0 and the launchers look; scancel; signals.
"""

from __future__ import annotations

import signal
import socket
from dataclasses import dataclass

from hpctrain.errors import RunFailed
from hpctrain.launch import local, status
from hpctrain.launch.start import hold, starter
from hpctrain.scheduler import answers, client
from hpctrain.scheduler.recognition import jobs_of, original
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import FINAL, Phase, Submission


@dataclass(frozen=True)
class Answer:
    """What was done, in words. `taken` says whether the run will stop or has ended."""

    words: str
    taken: bool = True


def cancel(run: RunDir) -> Answer:
    """Asks one run to save and stop; leaves a run alone, also as root, to which other users can write."""
    submission = run.submission.read()
    if submission.foreign:
        return Answer(f"is not yours to cancel: its folder {submission.foreign}", taken=False)
    if copied := original(run, submission):
        return Answer(f"is a copy of {copied}, which has the jobs: cancel it there", taken=False)
    if submission.in_slurm:
        return _cancel_study_s(run) if submission.study else _cancel_jobs(run, submission)
    return _cancel_here(run)


def _cancel_jobs(run: RunDir, submission: Submission) -> Answer:
    try:
        living = _living(run, submission)
    except client.Unreachable as error:
        if not run.read_state().final:
            run.cancel_file.touch()
        return Answer(f"Slurm did not take the request: {error}; try again", taken=False)
    if not living:
        row = status.row_of(run)
        if row.phase in FINAL:
            return Answer(f"has ended already ({row.phase})")
        run.cancel_file.touch()
        return Answer(f"the request to stop is in its folder; {row.detail}", taken=False)
    run.cancel_file.touch()
    ids = [job.job_id for job in living]
    try:
        client.cancel(ids, submission.slurm_conf)
        left = _living(run, submission)
    except client.Unreachable as error:
        return Answer(f"Slurm did not take the request: {error}; try again", taken=False)
    if left or not all(job.state in answers.PENDING for job in living):
        return Answer("asked to save and stop")
    _note_cancelled(run, "cancelled while it waited")
    return Answer("cancelled while it waited")


def _living(run: RunDir, submission: Submission) -> list[answers.Job]:
    jobs = jobs_of(run, submission, client.queue(submission.slurm_conf))
    return [job for job in jobs if job.state not in answers.ENDED]


def _cancel_study_s(run: RunDir) -> Answer:
    """Cancels a run of a study: its job has other runs to do, and passes the request on."""
    row = status.row_of(run)
    if row.phase in FINAL:
        return Answer(f"has ended already ({row.phase})")
    run.cancel_file.touch()
    return Answer("asked to save and stop")


def _cancel_here(run: RunDir) -> Answer:
    """Cancels a run outside of Slurm: its ranks here get a signal; those elsewhere look for the request."""
    if run.read_state().phase != Phase.DONE and local.living(run):
        run.cancel_file.touch()
        local.signal_ranks(run, run.attempts()[-1], signal.SIGINT)
        return Answer("asked to save and stop")
    row = status.row_of(run)
    if row.phase in FINAL:
        return Answer(f"has ended already ({row.phase})")
    run.cancel_file.touch()
    owner, ended = starter(run)
    if owner is not None and not ended:
        if owner.host == socket.gethostname():
            return Answer("asked to stop before its ranks are up")
        return Answer(f"asked to save and stop: on {owner.host}, which looks for the request once a second")
    _note_cancelled(run, "cancelled before its ranks were up")
    return Answer("cancelled")


def _note_cancelled(run: RunDir, detail: str) -> None:
    """Writes that the run is cancelled, unless somebody starts it at this moment: then its start says how it ends."""
    try:
        with hold(run):
            if not run.read_state().final:
                run.state.cancelled(detail)
    except RunFailed:
        pass
