"""What stands in the way of starting a run: what is under way already, or else the right to start it.

Takes a run directory; asks Slurm, or looks for its processes on this machine. Side effects: those of launch/start.py.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from hpctrain.config.settings import Config
from hpctrain.errors import RunFailed, UserError
from hpctrain.launch import jobs, local, status
from hpctrain.launch.start import PATIENCE_S, Right, hold
from hpctrain.scheduler import answers
from hpctrain.scheduler.submit import complete
from hpctrain.storage import lock
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import FINAL, Phase, Reason

POLL_S = 0.2


@dataclass(frozen=True)
class Standing:
    """What stands in the way of a new start: `job_id` is under way, or `leaving` was cancelled and is ending.

    `right` is the right to start the run; None if it was not asked for, or if another process has it.
    """

    job_id: str | None = None
    leaving: str | None = None
    right: Right | None = field(default=None, compare=False)

    def submit(self, config: Config, after: str | None = None) -> str:
        """Returns the job that is under way; if none is, submits the run, here or to Slurm, and returns the new job.

        The new job begins when job `after`, or else the leaving one, has ended. Raises as scheduler/submit.py does.
        """
        if self.job_id is not None:
            return self.job_id
        assert self.right is not None
        job = jobs.local_job if config.cluster.kind == "local" else jobs.slurm_rank
        return self.right.submit(config, job, after=after or self.leaving)


@contextlib.contextmanager
def right_to_start(run: RunDir) -> Iterator[Standing]:
    """Yields how the run stands; if nothing is under way, the block may start it, and nobody else can meanwhile.

    Raises UserError if a process trains it, if that is not known, or if others can write to its folder; RunFailed if
    another process keeps the right.
    """
    run.refuse_others()  # before anything is written there
    end_s = time.monotonic() + PATIENCE_S
    with contextlib.ExitStack() as stack:
        while True:
            try:
                right = stack.enter_context(hold(run))
                break
            except FileNotFoundError:
                raise UserError("run", run.run_id, "its folder was removed meanwhile; try again") from None
            except RunFailed:
                standing = look(run)
                if standing.job_id:
                    yield standing
                    return
                if time.monotonic() > end_s:
                    raise
            time.sleep(POLL_S)
        with contextlib.suppress(RunFailed):  # a submission asks Slurm again
            complete(run)
        yield replace(look(run), right=right)


def look(run: RunDir, besides: str | None = None) -> Standing:
    """Returns what is under way, apart from job `besides`, according to Slurm or to the processes of this machine.

    Raises UserError if a process trains the run outside of a job, or if it is not known whether a job lives.
    """
    submission, state = run.submission.read(), run.read_state()
    # Slurm may know better than a final state; but not for the runs of a study, whose jobs go on with other runs.
    doubtful = not state.final or (submission.in_slurm and not submission.study)
    if doubtful and (submission.in_slurm or (submission.job_ids and submission.newest)):
        row = status.row_of(run, even_if_final=True)
        lives = row.phase not in FINAL or row.scheduler in answers.LIVING
        if lives and row.phase != Phase.DONE and row.job_id not in (None, besides):
            if row.scheduler == status.UNKNOWN:
                raise UserError("run", run.run_id, str(row.detail))
            stops = row.phase in FINAL or run.cancel_file.exists()
            if stops and row.scheduler in answers.ACTIVE:
                return Standing(leaving=row.job_id)
            return Standing(row.job_id)
    refuse_if_running(run)
    return Standing()


def refuse_if_running(run: RunDir) -> None:
    """Raises UserError, naming the owner, if a process of this machine trains the run: two would spoil its folder."""
    alive = local.living(run)
    follow = f"follow it with hpctrain logs -f {run.run_id}"
    if alive:
        who = f"process {alive[0]['pid']} on {alive[0]['host']}"
        raise UserError("run", run.run_id, f"{Reason.RUN_LOCKED}: is being trained by {who}; {follow}")
    owner, mine = lock.last_owner(run.start_folder), lock.this_process(0)
    state = run.read_state()  # it names the launcher; a process that only submits is not in it
    launcher = owner is not None and not state.final and (owner.host, owner.pid) == (state.host, state.pid)
    if (
        owner is not None
        and launcher
        and owner.pid != mine.pid
        and lock.has_ended(owner, mine, None) is False
    ):
        who = f"process {owner.pid} on {owner.host}"
        raise UserError("run", run.run_id, f"{Reason.RUN_LOCKED}: is being started by {who}; {follow}")
