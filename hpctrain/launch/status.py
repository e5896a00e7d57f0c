"""What became of runs: from their own files first, then from Slurm in one call, sacct as a help.

Takes run directories; gives one row a run. What a run last wrote is not repeated where the scheduler
knows better (preempted, lost a node, cancelled), and a scheduler that does not answer is no news.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hpctrain.launch import local, scheduler, slurm
from hpctrain.run_dir import FINAL, RunDir, read_json, runs

# A rank 0 that has not written its heartbeat for this long is asked after.
SILENCE_S = 30.0


@dataclass(frozen=True)
class Row:
    """One run, as status shows it. `progress` is 0 to 1; `age_s` is since the last heartbeat.

    `scheduler` is Slurm's word on the newest job: its state, "unreachable", or None where it was not asked.
    """

    study: str
    run: str
    phase: str
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
    """One row for each run that fits the filters, with at most one squeue and one sacct call in all."""
    now_s = time.time()
    found = [(run, _own_word(run, now_s)) for run in runs(root, study) if name is None or name in run.run_id]
    told = _ask_slurm([(run, row) for run, row in found if row.phase not in FINAL])
    settled = [told.get(run.path, row) for run, row in found]
    return [row for row in settled if phase is None or row.phase == phase]


def _own_word(run: RunDir, now_s: float) -> Row:
    """What the run's own files say."""
    state = run.read_state()
    steps, step = state.get("total_steps"), state.get("step")
    scores = (state.get("summary") or {}).get("validation") or state.get("figures") or {}
    phase = state.get("phase", "new")
    job_ids = () if phase in FINAL else (read_json(run.submission_file) or {}).get("job_ids", ())
    return Row(
        run.study, run.run_id, phase, state.get("reason"), state.get("detail"), state.get("attempt"), step,
        step / steps if steps and step is not None else None, scores,
        job_ids[-1] if job_ids else state.get("job_id"), None,
        now_s - state["heartbeat"] if "heartbeat" in state else None,
    )  # fmt: skip


def _ask_slurm(open_runs: Sequence[tuple[RunDir, Row]]) -> dict[Path, Row]:
    """The rows of runs that have not ended, settled."""
    settled = {}
    remote = []
    for run, row in open_runs:
        cluster = (read_json(run.submission_file) or {}).get("cluster", "local")
        if cluster == "local" or row.job_id is None:
            settled[run.path] = _settle_local(run, row)
        else:
            remote.append((run, row))
    if not remote:
        return settled
    try:
        queue = scheduler.queue()
    except scheduler.Unreachable:
        return settled | {run.path: replace(row, scheduler="unreachable") for run, row in remote}
    gone = [row.job_id for _, row in remote if row.job_id and row.job_id not in queue]
    past = scheduler.history(gone)
    for run, row in remote:
        job = queue.get(row.job_id or "") or past.get(row.job_id or "")
        settled[run.path] = settle(row, job)
    return settled


def settle(row: Row, job: slurm.Job | None) -> Row:
    """A run's own word and Slurm's, joined. `job` is None where Slurm knows nothing of it any more."""
    silent = (row.age_s or 0) > SILENCE_S
    if job is None:
        if not silent:
            return row
        if row.phase == "requeued":  # stopped in good order, but nobody has put it back
            return replace(row, phase="interrupted", detail="a checkpoint was saved; hpctrain resume goes on")
        detail = "its job has left the queue and its ranks said nothing of an end"
        return replace(row, phase="failed", reason="LOST", detail=detail)
    row = replace(row, scheduler=job.state)
    if job.state in slurm.WAITING:
        waits_again = row.phase in ("running", "starting", "requeued")
        phase = "requeued" if waits_again else "submitted"
        return replace(row, phase=phase, reason=row.reason or job.reason, detail=f"waiting: {job.reason}")
    if job.state in slurm.ACTIVE:
        return replace(row, phase="starting") if row.phase in ("submitted", "requeued") else row
    reason = slurm.ENDED.get(job.state, "ERROR")
    if reason == "CANCELLED":
        return replace(row, phase="cancelled", reason=reason, detail="cancelled in Slurm")
    if reason == "DONE" and not silent:
        return row  # its last word is on the way
    detail = row.detail or f"Slurm says {job.state}; the ranks said nothing of an end"
    return replace(row, phase="failed", reason="LOST" if reason == "DONE" else reason, detail=detail)


def _settle_local(run: RunDir, row: Row) -> Row:
    if row.phase not in ("running", "starting", "submitted") or (row.age_s or 0) <= SILENCE_S:
        return row
    attempts = run.attempts()
    if any(local.is_rank(who) for who in (run.rank_files(attempts[-1]) if attempts else [])):
        return row
    detail = "no heartbeat, and no process of it is left on this host"
    return replace(row, phase="failed", reason="LOST", detail=detail)


def table(found: list[Row]) -> Any:
    """The rows as a rich table."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("run", overflow="fold", min_width=20)
    for column in ("state", "progress", "figures", "job"):
        shown.add_column(column, overflow="fold")
    colours = {"done": "green", "failed": "red", "running": "cyan"}
    for r in found:
        reason = f" ({r.reason})" if r.reason and r.reason != "DONE" else ""
        heard = f", heard of {r.age_s:.0f} s ago" if r.phase not in FINAL and r.age_s is not None else ""
        slurm_word = f" [{r.scheduler}]" if r.scheduler == "unreachable" else ""
        keys = [k for k in ("loss", "accuracy", "perplexity", "samples_per_s") if k in r.scores]
        shown.add_row(
            f"{r.study}/{r.run}",
            f"[{colours.get(r.phase, 'yellow')}]{r.phase}[/]{reason}{heard}{slurm_word}",
            "" if r.progress is None else f"{100 * r.progress:.0f} %",
            " ".join(f"{k} {r.scores[k]:,.4g}" for k in keys),
            r.job_id or "",
        )
    return shown


def as_json(found: list[Row]) -> list[dict[str, Any]]:
    return [asdict(r) for r in found]
