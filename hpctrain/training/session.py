"""Surrounds the loop: joins the ranks, locks the run, notes its origin, trains, and records how it ended."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path

import torch

from hpctrain import job_environment
from hpctrain.checkpoints.saver import Checkpointer
from hpctrain.config.settings import Config
from hpctrain.data.identify import refuse_change_here
from hpctrain.report.curves import draw_curves
from hpctrain.scheduler.time_limit import TimeLeft, TimeLimit
from hpctrain.storage import lock
from hpctrain.storage.full_disk import left_out, patiently
from hpctrain.storage.records import train_records, validation_records
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Reason
from hpctrain.training.comm import Comm, Stuck, connect
from hpctrain.training.loop import train
from hpctrain.training.provenance import write_provenance
from hpctrain.training.reporter import Reporter, chosen_loggers
from hpctrain.training.stop import StopFlag

LOCK_PATIENCE_S = 60.0  # Slurm calls a job active for a while after its last process has ended


def run_session(
    config: Config,
    run: RunDir,
    attempt: int,
    stop: StopFlag,
    stuck: Stuck,
    job_ended: lock.JobEnded | None = None,
    time_left: TimeLeft | None = None,
) -> str:
    """Join the other ranks and train. Returns the reason of the end. Exceptions pass through. Collective.

    `stuck` ends this process if the other ranks no longer answer (training/comm.py). `time_left` asks Slurm how long
    the job may go on; it is enough if one rank has it.
    """
    stop.install()  # a second time, because libraries may have taken signals over
    if time_left is not None:
        stop.limit = TimeLimit(time_left, config.cluster.signal_s)
        stop.limit.watch()
    comm = connect(
        config.comm, config.ranks, stuck, run.timeline_file(attempt) if config.comm.timeline else None
    )
    cores = share_cores(comm)
    torch.set_num_threads(config.resources.threads_per_rank or cores)
    if comm.rank != 0:
        return _train_locked(config, run, attempt, comm, stop, None)
    patience_s = LOCK_PATIENCE_S if job_environment.read().in_job else 0.0
    with patiently(lambda: lock.acquire(run.checkpoints, attempt, job_ended, patience_s)) as term:
        stop.watch(run.cancel_file)
        return _train_locked(config, run.held_by(term.stands), attempt, comm, stop, term)


def _train_locked(
    config: Config, run: RunDir, attempt: int, comm: Comm, stop: StopFlag, term: lock.Term | None
) -> str:
    """Train; `term` is the right of rank 0 to write to the run directory."""
    if comm.rank == 0:
        patiently(lambda: refuse_change_here(run, config))
        with left_out(run.provenance_file.name):
            write_provenance(run, comm)
        job_id = job_environment.read().job_id
        patiently(
            lambda: run.state.starting(attempt=attempt, ranks=comm.size, started=time.time(), job_id=job_id)
        )
    # The job fails when any of its nodes does.
    mtbf_s = 3600 * config.cluster.mtbf_node_hours / config.resources.nodes
    checkpointer = Checkpointer(
        run.checkpoints, config.checkpoint, attempt, mtbf_s, term, comm.rank, comm.size
    )
    try:
        reporter = Reporter(run, attempt, comm.rank == 0, chosen_loggers(config.train))
        with contextlib.closing(reporter) as report:
            reason = train(config, run, comm, stop, checkpointer, report)
    finally:
        checkpointer.settle()
    comm.barrier()
    if comm.rank == 0:
        records = run.metrics_file
        with left_out(run.curves_file.name):
            draw_curves(train_records(records), validation_records(records), run.curves_file, run.run_id)
        if run.cancel_file.exists() and reason not in (Reason.DONE, Reason.PAUSED):
            reason = Reason.CANCELLED
        place = job_environment.read()
        passed = place.job_id is not None and run.submission.read().has_passed(place.job_id)
        if reason == Reason.DONE or not passed:  # the next job of the run may be in the queue already
            patiently(lambda: run.state.stopped(reason, place.in_job))
    comm.shutdown()
    return reason


def share_cores(comm: Comm) -> int:
    """Returns the number of cores of this rank: those that it may use, at most those that Slurm gave it. Collective.

    If all ranks of a node may use the same cores (their launcher did not bind them), binds each to a share, with all
    its threads: the communication of a rank then runs on cores where its own computing waits for it, and does not
    compete with another rank's. Does not bind ranks with GPUs: their hosts have cores to spare, and a GPU is nearer to
    some.
    """
    own = sorted(os.sched_getaffinity(0))
    # Not every Slurm binds its tasks: a rank that took all cores that it sees would take those of its neighbours.
    given = job_environment.read().cpus_per_task or len(own)
    places = comm.gather_objects((socket.gethostname(), own))
    neighbours = [theirs for host, theirs in places if host == socket.gethostname()]
    ranks = len(neighbours)
    if any(theirs != own for theirs in neighbours):
        return min(len(own), given)
    each = max(1, len(own) // ranks)
    if ranks > 1 and len(own) >= ranks and not torch.cuda.is_available():
        mine = own[comm.local_rank * each : (comm.local_rank + 1) * each]
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):  # the thread has ended meanwhile
                os.sched_setaffinity(int(thread.name), mine)
    return min(each, given)
