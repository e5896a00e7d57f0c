"""What became of runs: from their own files first, then from Slurm in one call, sacct as a help.

Takes run directories; returns one row per run. What a run last wrote is not repeated if the scheduler
knows better (preempted, lost a node, cancelled); a scheduler that does not answer changes nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpctrain.launch import local
from hpctrain.launch.failure import last_said
from hpctrain.scheduler import answers, client
from hpctrain.storage.run_dir import RunDir, runs
from hpctrain.storage.run_state import FINAL, Phase, Reason, Submission, reason_of_slurm

# If rank 0 has not written its heartbeat for this long, Slurm is asked about it.
SILENCE_S = 30.0
HEARTBEAT_DUE_S = 3.0  # it comes once a second; who waits looks elsewhere after this long
_RESUMES = "hpctrain resume goes on from its last checkpoint"


@dataclass(frozen=True)
class Row:
    """One run, as status shows it. `progress` is 0 to 1; `age_s` is since the last heartbeat.

    `scheduler` is Slurm's word on the newest job: its state, "unreachable", or None if it was not asked.
    """

    study: str
    run: str
    phase: Phase
    reason: str | None
    detail: str | None
    attempt: int | None
    step: int | None
    progress: float | None
    scores: dict[str, float]
    job_id: str | None
    scheduler: str | None
    age_s: float | None


def rows(
    root: Path, study: str | None = None, phase: str | None = None, name: str | None = None
) -> list[Row]:
    """Returns one row for each run that fits the filters.

    Makes one squeue and at most one sacct call per cluster. An end that Slurm alone knew of is written down.
    """
    now_s = time.time()
    known = [(run, *_own_word(run, now_s)) for run in runs(root, study) if name is None or name in run.run_id]
    told = _ask_slurm([entry for entry in known if entry[1].phase not in FINAL])
    settled = [told.get(run.path, row) for run, row, _ in known]
    return [row for row in settled if phase is None or row.phase == phase]


def row_of(run: RunDir) -> Row:
    """Returns the row of one run; asks Slurm if the run has not ended."""
    row, submission = _own_word(run, time.time())
    return row if row.phase in FINAL else _ask_slurm([(run, row, submission)])[run.path]


def under_way(run: RunDir) -> str | None:
    """Returns the job that this run has in a queue or running, or None."""
    if not run.submission.read().job_ids or run.read_state().final:
        return None
    row = row_of(run)
    return None if row.phase in FINAL else row.job_id


def _own_word(run: RunDir, now_s: float) -> tuple[Row, Submission]:
    """What the run's own files say, and its submission if it has not ended."""
    state = run.read_state()
    steps, step = state.total_steps, state.step
    scores = (state.summary or {}).get("validation") or state.figures or {}
    submission = Submission() if state.final else run.submission.read()
    job_ids = submission.job_ids or (state.job_id,)
    row = Row(
        run.study, run.run_id, state.phase, state.reason, state.detail, state.attempt, step,
        step / steps if steps and step is not None else None, dict(scores), job_ids[-1], None,
        state.age_s(now_s),
    )  # fmt: skip
    return row, submission


def _ask_slurm(open_runs: Sequence[tuple[RunDir, Row, Submission]]) -> dict[Path, Row]:
    """The rows of runs that have not ended, settled; an end is written into the run."""
    settled = {}
    clusters: dict[str | None, list[tuple[RunDir, Row, Sequence[str]]]] = {}
    for run, row, submission in open_runs:
        if not submission.in_slurm:
            settled[run.path] = _settle_local(run, row)
        else:
            conf = submission.slurm_conf
            clusters.setdefault(conf, []).append((run, row, submission.job_ids))
    for conf, members in clusters.items():
        settled |= _ask_cluster(conf, members)
    for run, row, _ in open_runs:
        if settled[run.path].phase in FINAL:
            settled[run.path] = _as_said(run, settled[run.path])
            _note_end(run, row, settled[run.path])
    return settled


def _as_said(run: RunDir, row: Row) -> Row:
    """The row of an end that nobody wrote down, with the reason if a rank could say it at least in a log."""
    unexplained = row.reason in (Reason.LOST, Reason.ERROR)
    if not unexplained and row.phase != Phase.INTERRUPTED:
        return row
    logs = (run.submitit / f"{row.job_id}_0_log.out", run.path / "launcher.log")
    text = next((log.read_text(errors="replace") for log in logs if log.is_file()), "")
    said = last_said(run, text)
    if said is None or not (unexplained or said.reason == Reason.DISK_FULL):
        return row
    return replace(row, phase=Phase.FAILED, reason=said.reason, detail=said.detail)


def _ask_cluster(
    slurm_conf: str | None, members: Sequence[tuple[RunDir, Row, Sequence[str]]]
) -> dict[Path, Row]:
    """The rows of one cluster's open runs, each with its job ids, settled."""
    try:
        queue = client.queue(slurm_conf)
    except client.Unreachable:
        return {run.path: replace(row, scheduler="unreachable") for run, row, _ in members}
    gone = [ids[-1] for _, _, ids in members if not any(job_id in queue for job_id in ids)]
    known = queue | client.history(gone, slurm_conf)
    settled = {}
    for run, row, ids in members:
        job = answers.current([known[job_id] for job_id in ids if job_id in known])
        settled[run.path] = settle(replace(row, job_id=job.job_id) if job else row, job)
    return settled


def _note_end(run: RunDir, seen: Row, settled: Row) -> None:
    """Keep what Slurm forgets after a while; unless the run has said something meanwhile, or is not ours."""
    now, _ = _own_word(run, time.time())
    if (now.phase, now.attempt, now.step) == (seen.phase, seen.attempt, seen.step):
        with contextlib.suppress(OSError):
            run.state.ended(settled.phase, settled.reason, settled.detail)


class Watch:
    """Whether a run has ended, for those who wait: from its own files, and from Slurm if they are silent."""

    ASK_S = 5.0

    def __init__(self, run: RunDir, say: Callable[[str], None]) -> None:
        self._run, self._say = run, say
        self._asked_s, self._said = 0.0, ""

    def ended(self) -> bool:
        """Returns whether the run has ended; says what Slurm tells of a silent run, once."""
        state = self._run.read_state()
        if state.final:
            return True
        silent = time.time() - (state.heartbeat or 0.0) > HEARTBEAT_DUE_S
        if not silent or time.monotonic() - self._asked_s < self.ASK_S:
            return False
        self._asked_s = time.monotonic()
        row = row_of(self._run)
        word = "Slurm does not answer" if row.scheduler == "unreachable" else row.detail
        if word and word != self._said and row.phase not in FINAL:
            self._said = word
            self._say(f"{self._run.run_id}: {row.phase}: {word}")
        return row.phase in FINAL


def settle(row: Row, job: answers.Job | None) -> Row:
    """Returns a run's row with Slurm's word on it. `job` is None if Slurm does not know it any more."""
    silent = (row.age_s or 0) > SILENCE_S
    if job is None:
        if not silent:
            return row
        if row.phase == Phase.REQUEUED:  # stopped in good order, but nobody has put it back
            return replace(row, phase=Phase.INTERRUPTED, detail=_RESUMES)
        if row.phase == Phase.SUBMITTED:
            detail = "its job left the queue before it began"
            return replace(row, phase=Phase.CANCELLED, reason=Reason.CANCELLED, detail=detail)
        detail = "its job has left the queue and its ranks said nothing of an end"
        return replace(row, phase=Phase.FAILED, reason=Reason.LOST, detail=detail)
    row = replace(row, scheduler=job.state)
    if job.state in answers.WAITING:
        waits_again = row.phase in (Phase.RUNNING, Phase.STARTING, Phase.REQUEUED)
        phase = Phase.REQUEUED if waits_again else Phase.SUBMITTED
        return replace(row, phase=phase, reason=row.reason or job.reason, detail=f"waiting: {job.reason}")
    if job.state in answers.ACTIVE:
        return replace(row, phase=Phase.STARTING) if row.phase in (Phase.SUBMITTED, Phase.REQUEUED) else row
    reason = reason_of_slurm(job.state)
    if reason == Reason.CANCELLED:
        return replace(row, phase=Phase.CANCELLED, reason=reason, detail="cancelled in Slurm")
    if reason == Reason.DONE and not silent:
        return row  # its last word is on the way
    if reason == Reason.PREEMPTED:
        return replace(row, phase=Phase.INTERRUPTED, reason=reason, detail=_RESUMES)
    if row.phase == Phase.REQUEUED:
        return replace(row, phase=Phase.INTERRUPTED, detail=_RESUMES)
    detail = row.detail or f"Slurm says {job.state}; the ranks said nothing of an end"
    return replace(
        row, phase=Phase.FAILED, reason=Reason.LOST if reason == Reason.DONE else reason, detail=detail
    )


def _settle_local(run: RunDir, row: Row) -> Row:
    if row.phase not in (Phase.RUNNING, Phase.STARTING, Phase.SUBMITTED) or (row.age_s or 0) <= SILENCE_S:
        return row
    attempts = run.attempts()
    if any(local.is_rank(who) for who in (run.rank_files(attempts[-1]) if attempts else [])):
        return row
    detail = "no heartbeat, and no process of it is left on this host"
    return replace(row, phase=Phase.FAILED, reason=Reason.LOST, detail=detail)


def table(runs_shown: list[Row]) -> Any:
    """Returns the rows as a rich table."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("run", no_wrap=True)  # what other commands take must not be cut in two
    for column in ("state", "progress", "figures", "job"):
        shown.add_column(column, overflow="fold")
    colours = {Phase.DONE: "green", Phase.FAILED: "red", Phase.RUNNING: "cyan"}
    for r in runs_shown:
        reason = f" ({r.reason})" if r.reason and r.reason != Reason.DONE else ""
        heartbeat = ""
        if r.phase not in FINAL and r.age_s is not None:
            heartbeat = f", last heartbeat {r.age_s:.0f} s ago"
        slurm_word = f" [{r.scheduler}]" if r.scheduler == "unreachable" else ""
        keys = [k for k in ("loss", "accuracy", "perplexity", "samples_per_s") if k in r.scores]
        shown.add_row(
            f"{r.study}/{r.run}",
            f"[{colours.get(r.phase, 'yellow')}]{r.phase}[/]{reason}{heartbeat}{slurm_word}",
            "" if r.progress is None else f"{100 * r.progress:.0f} %",
            " ".join(f"{k} {r.scores[k]:,.4g}" for k in keys),
            r.job_id or "",
        )
    return shown


def as_json(runs_shown: list[Row]) -> list[dict[str, Any]]:
    """Returns the rows as JSON objects."""
    return [dict(vars(r)) for r in runs_shown]
