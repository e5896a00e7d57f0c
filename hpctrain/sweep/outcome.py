"""How one start of a run ended and what that means for the study, from the files of this start alone.

Takes a run directory whose processes have ended, and the claim that they were started for; returns an `End`. What an
earlier start or rung left behind never counts: a run that ended before it had begun is tried again. Side effect:
state.json, if the run could not say itself how it ended.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpctrain import job_environment
from hpctrain.launch import launcher_logs
from hpctrain.launch.failure import settle
from hpctrain.scheduler import client
from hpctrain.storage import last_word
from hpctrain.storage.full_disk import patiently
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Phase, Reason, passing
from hpctrain.storage.succession import superseded
from hpctrain.sweep import results
from hpctrain.sweep.claims import Claim
from hpctrain.sweep.study_dir import Ended

TRIES = 3  # a run whose end says nothing about the run itself is tried at most this often in a row


@dataclass(frozen=True)
class End:
    """How a start ended. `outcome` is one of claims.JUDGED, or "stopped" or "locked": then the work goes on later.

    `ended` is what the run's files say about the end; None if the run did not end by itself.
    """

    outcome: str
    reason: str | None = None
    ended: Ended | None = None


def judge(
    run: RunDir, claim: Claim, metric: str, token: str, told: str | None, asked: bool, code: int | None = None
) -> End:
    """Returns the end of one start.

    `token` names the start. `told` is the reason for which the job stops, None if it goes on; `asked` says whether the
    run was asked to stop; `code` is the exit code of its process.
    """
    state, attempt, place = run.read_state(), run.attempt_of(token), job_environment.read()
    failure = run.failure(attempt) if attempt is not None else None
    locked = failure is not None and failure["reason"] == Reason.RUN_LOCKED
    if locked or superseded(run, attempt, place.job_id, client.has_ended):
        return End("locked")  # another process has the run, and will judge it
    unwritten = last_word.unwritten(code, state.reason)
    if unwritten or not (state.final or state.phase == Phase.REQUEUED):
        if asked and told and failure is None and not unwritten and not run.cancel_file.exists():
            # It ended before it could save, or before it had begun.
            patiently(lambda: run.state.stopped(told, place.in_job))
            return End("stopped", told)
        state = settle(run, launcher_logs.text(run, None), attempt, code)
    epochs = claim.work.epochs
    # state.json may lack the detail, if the disk was full.
    ended: Ended = {**results.ended(run, metric, epochs), "detail": state.detail}
    phase, reason = state.phase, state.reason
    again = reason in passing() or (asked and reason == Reason.ERROR)  # a signal can make anything fail
    if phase == Phase.DONE or reason == Reason.PAUSED:
        if epochs is None or ended["epochs"] >= epochs:
            outcome = "done" if epochs is None else "paused"
            return End(outcome, reason, {**ended, "phase": outcome})
        # It stopped before the end of this rung, for a reason that has passed.
        phase, again = Phase.FAILED, True
        ended["phase"] = phase
        ended["detail"] = f"stopped after {ended['epochs']:g} of {epochs} epochs"
    mishaps = passing() | {Reason.PAUSED, Reason.ERROR}
    if phase == Phase.FAILED and not (again and claim.mishaps(mishaps) + 1 < TRIES):
        return End("failed", reason, ended)
    if phase == Phase.CANCELLED and not told:
        return End("cancelled", reason, ended)
    return End("stopped", reason, ended)
