"""The functions that submitit calls inside the job of a run.

submitit pickles only a reference to them and the path of the run directory.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import time
from pathlib import Path

from hpctrain import job_environment
from hpctrain.config.load import from_dict
from hpctrain.launch import local, start
from hpctrain.storage import output
from hpctrain.storage.full_disk import patiently
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Phase, Reason, reason_of_oserror, storage_failure


def local_job(path: str) -> str:
    """Does a background job on this machine: starts all ranks, waits for them, and returns the phase at the end."""
    run, asked = RunDir(Path(path)), False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        asked = True

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, ask)

    config = from_dict(run.own_config())

    def begin() -> local.Ranks | None:
        return None if asked or run.cancel_file.exists() else local.start(run, config)

    with start.hold(run, patience_s=start.PATIENCE_S):  # the submitter has it until it has noted this job
        try:
            ranks = patiently(begin)
        except OSError as error:
            return _not_started(run, error)
        if ranks is None:
            run.state.cancelled("cancelled before its ranks were started")
            return str(Phase.CANCELLED)
        while ranks.poll() is None:
            ranks.attend(asked)
            time.sleep(0.1)
        return str(ranks.finish(Reason.INTERRUPTED if asked else None).phase)


def _not_started(run: RunDir, error: OSError) -> str:
    """Says on stderr, and in state.json if there is space, that storage refused the start; returns the phase."""
    if reason_of_oserror(error) is None:
        raise error
    failed = storage_failure(error, "the run cannot be started")
    print(f"hpctrain: {failed}", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):
        run.state.failed(failed.reason, failed.detail)
    return str(Phase.FAILED)


def slurm_rank(path: str) -> int:
    """Does the work of one rank of a Slurm job; returns its exit code. The ranks of one start share its token."""
    from hpctrain.scheduler import client
    from hpctrain.training.worker import work

    run = RunDir(Path(path))
    if run.read_state().phase == Phase.DONE:
        return 0  # a later job of a chain: nothing is left to do
    place = job_environment.read()
    job_id, first = str(place.job_id), place.rank == 0
    # Only rank 0 asks Slurm; the ranks agree on the answer.
    time_left = functools.partial(client.time_left, job_id) if first else None
    code = work(run, place.start, client.has_ended, time_left)
    if first:
        _after(run, job_id)
    return code


def _after(run: RunDir, job_id: str) -> None:
    """Puts a run that is not done back into the queue after an orderly end, unless Slurm or the chain does so."""
    from hpctrain.scheduler import client

    config, submission = from_dict(run.own_config()), run.submission.read()
    if submission.has_passed(job_id):
        return  # another submission has the run now
    state, job_ids = run.read_state(), submission.job_ids
    later = job_ids[job_ids.index(job_id) + 1 :] if job_id in job_ids else []
    if state.phase in (Phase.DONE, Phase.CANCELLED):
        with contextlib.suppress(client.Unreachable):
            client.cancel(later)  # the rest of the chain has nothing left to do
    if state.phase != Phase.REQUEUED or later:
        return
    if state.reason == Reason.TERMINATED:
        if not client.in_grace(job_id, _say):
            return  # scancel, or Slurm puts it back itself
        patiently(lambda: run.state.reason_is(Reason.PREEMPTED))
    if config.resources.chain > 1:
        run.state.interrupted("the last job of the chain has ended; hpctrain resume goes on")
        return
    try:
        if not config.cluster.requeue:
            raise client.Unreachable("requeue is off for this cluster")
        client.requeue(job_id, job_environment.read().restarts, _say)
    except client.Unreachable as error:
        _say(f"not requeued ({error}); submitting a new job")
        with start.hold(run, patience_s=start.PATIENCE_S) as right:
            if not run.submission.read().has_passed(job_id):
                right.submit(config, slurm_rank, goes_on=True)


def _say(words: str) -> None:
    print(words, flush=True)


if __name__ == "__main__":  # a rank of slurm/train.sbatch
    output.as_log()
    sys.exit(slurm_rank(sys.argv[1]))
