"""How a start of a run ended and what that means for the study, from the files of this start alone.

Takes a run directory whose processes have ended, and the claim that they were started for; returns an `End`. What an
earlier start or rung left behind never counts: a run that ended before it had begun is tried again. Side effect:
state.json, if the run could not say itself how it ended.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hpctrain import job_environment
from hpctrain.launch.failure import settle
from hpctrain.storage.last_word import EXIT_DISK_FULL
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Phase, Reason, passing
from hpctrain.sweep import results
from hpctrain.sweep.claims import Claim

TRIES = 3  # a run whose end says nothing of the run itself is tried again, so many times in a row at most


@dataclass(frozen=True)
class End:
    """`outcome` as claims.JUDGED has it, or "stopped" or "locked": the work goes on later. `facts` go to ended/."""

    outcome: str
    reason: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def judge(
    run: RunDir,
    claim: Claim,
    metric: str,
    before: int,
    told: str | None,
    asked: bool,
    code: int | None = None,
) -> End:
    """Returns the end of one start.

    `before`: the newest attempt before it; `told`: why the job stops, if it does; `asked`: whether the run was
    told so; `code`: its exit code.
    """
    state = run.read_state()
    full = code == EXIT_DISK_FULL and state.reason != Reason.DISK_FULL
    if full or not (state.final or state.phase == Phase.REQUEUED):
        fresh = [number for number in run.attempts() if number > before]
        failure = run.failure(fresh[-1]) if fresh else None
        if failure and failure["reason"] == Reason.RUN_LOCKED:  # another process is at it: not ours to judge
            return End("locked")
        if asked and told and failure is None and not full and not run.cancel_file.exists():
            # It ended before it could save, or before it had begun.
            run.state.stopped(told, job_environment.read().in_job)
            return End("stopped", told)
        log = run.path / "launcher.log"
        state = settle(run, log.read_text(errors="replace") if log.exists() else "", before, code)
    epochs = claim.work.epochs
    facts = results.facts(run, metric, epochs)
    phase, reason = state.phase, state.reason
    again = reason in passing() or (asked and reason == Reason.ERROR)  # a signal can make anything fail
    if phase == Phase.DONE or reason == Reason.PAUSED:
        if epochs is None or facts["epochs"] >= epochs:
            outcome = "done" if epochs is None else "paused"
            return End(outcome, reason, facts | {"phase": outcome})
        phase, again = Phase.FAILED, True  # it stopped short of this rung: whatever led it astray has passed
        facts |= {"phase": phase, "detail": f"stopped after {facts['epochs']:g} of {epochs} epochs"}
    mishaps = passing() | {Reason.PAUSED, Reason.ERROR}
    if phase == Phase.FAILED and not (again and claim.mishaps(mishaps) + 1 < TRIES):
        return End("failed", reason, facts)
    if phase == Phase.CANCELLED and not told:
        return End("cancelled", reason, facts)
    return End("stopped", reason, facts)
