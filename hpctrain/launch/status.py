"""What became of runs: their own files say it first, then one call of Slurm's squeue, and sacct for forgotten jobs.

Takes run directories; returns one row per run. What a run last wrote is not repeated if the scheduler
knows better (preempted, lost a node, cancelled); a scheduler that does not answer changes nothing.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpctrain.errors import RunFailed
from hpctrain.launch import failure, local
from hpctrain.launch.start import hold, starter
from hpctrain.report.numbers import measured
from hpctrain.scheduler import answers, client
from hpctrain.scheduler.recognition import has_left_its_array, jobs_of, moved_from, original, perhaps_of
from hpctrain.shown import shown
from hpctrain.storage import last_word
from hpctrain.storage.attempts import RUNNING
from hpctrain.storage.json_files import clock_of
from hpctrain.storage.rebuild import MISSING
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import (
    ENDINGS,
    FINAL,
    STORAGE,
    Phase,
    Reason,
    RunState,
    Submission,
    reason_of_slurm,
)
from hpctrain.storage.search import runs

# If rank 0 has not written its heartbeat for this long, Slurm is asked about it.
SILENCE_S = 30.0
HEARTBEAT_DUE_S = 3.0  # it comes once a second; a watcher asks Slurm after this long without one
LOST_S = 86400.0  # accounting may show a job that is gone as running for ever; a run silent this long is lost
UNREACHABLE = "unreachable"
UNKNOWN = "unknown"
_RESUMES = "hpctrain resume goes on from its last checkpoint"
_NOT_IN_JSON = ("damage", "needs_start")
_WAITS = "was never started, and nobody is known to start it: hpctrain resume {}"


@dataclass(frozen=True)
class Row:
    """One run, as status shows it. `progress` is 0 to 1; `age_s` counts from the last heartbeat, None if it is unknown.

    `scheduler` is Slurm's word on the newest job: its state, UNREACHABLE, UNKNOWN if Slurm knows nothing of it, or
    None if it was not asked. `damage` names its small files that are damaged, and says why; `detail` says it as well.
    `needs_start`: the run stays as it is until somebody calls `hpctrain resume`, or `sweep` for a study's run.
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
    damage: tuple[str, ...] = ()
    needs_start: bool = False


_NO_JOBS = Submission()


@dataclass(frozen=True)
class _Seen:
    """What the files of a run said before Slurm was asked."""

    run: RunDir
    state: RunState
    submission: Submission
    row: Row


def rows(
    root: Path,
    study: str | None = None,
    phase: str | None = None,
    name: str | None = None,
    queues: client.Queues | None = None,
    say: Callable[[str], None] = lambda words: None,
) -> list[Row]:
    """Returns one row for each run that fits the filters and may be read; `say` hears of folders that may not.

    Makes one squeue call per cluster that is not in `queues` yet, and at most one sacct call per cluster. Writes an end
    that only Slurm knew of into its run.
    """
    now_s = clock_of(root)
    known, asked = [], []
    for run in runs(root, study, say):
        if name is None or name in run.run_id:
            seen = _see(run, now_s)
            known.append((run.path, seen.row))
            if _asks(seen):  # of the others, which may be ten thousand, the row is enough
                asked.append(seen)
    told = _ask(asked, queues or client.Queues())
    settled = [_with_damage(told.get(path, row) if told else row) for path, row in known]
    return [row for row in settled if phase is None or row.phase == phase]


def row_of(run: RunDir, even_if_final: bool = False) -> Row:
    """Returns the row of one run; asks Slurm if it has not ended, or if `even_if_final`: its job may still live."""
    seen = _see(run, clock_of(run.path), even_if_final)
    return _with_damage(_ask([seen], client.Queues())[run.path] if _asks(seen, even_if_final) else seen.row)


def _asks(seen: _Seen, even_if_final: bool = False) -> bool:
    """Whether to ask Slurm or this machine about a run; never on the word of files that others could have written."""
    open_ = seen.row.phase not in FINAL or even_if_final or bool(seen.state.damage)
    return open_ and not seen.submission.foreign


def _see(run: RunDir, now_s: float, even_if_final: bool = False) -> _Seen:
    """Reads the run's own files; the submission only if the run has not ended, or if `even_if_final`."""
    state, age_s = run.state.read_with_age(now_s)
    steps, step = state.total_steps, state.step
    ended = state.final and not even_if_final and not state.damage
    submission = _NO_JOBS if ended else run.submission.read()
    scores = (state.summary or {}).get("validation") or state.figures or {}
    damage = _damage(run, state, submission) if state.damage or submission.damage else ()
    job_ids = (submission.job_ids if submission.newest else ()) or (state.job_id,)
    row = Row(
        run.study, run.run_id, state.phase, state.reason, state.detail, state.attempt, step,
        step / steps if steps and step is not None else None, dict(scores) if isinstance(scores, Mapping) else {},
        job_ids[-1], None, age_s, damage,
    )  # fmt: skip
    if submission.foreign:
        told = f"as its own files say: its folder {submission.foreign}"
        row = replace(row, detail="; ".join(filter(None, (row.detail, told))))
    return _Seen(run, state, submission, row)


def _ask(open_runs: Sequence[_Seen], queues: client.Queues) -> dict[Path, Row]:
    """The rows of runs, settled with what Slurm or this machine says; writes an end into the run."""
    settled = {}
    clusters: dict[str | None, list[_Seen]] = {}
    for seen in open_runs:
        if not seen.submission.in_slurm or original(seen.run, seen.submission):
            settled[seen.run.path] = _settle_local(seen)
        else:
            clusters.setdefault(seen.submission.slurm_conf, []).append(seen)
    for conf, members in clusters.items():
        settled |= _ask_cluster(conf, members, queues)
    for seen in open_runs:
        if settled[seen.run.path].phase in FINAL and (seen.row.phase not in FINAL or seen.state.damage):
            if not seen.state.final:
                settled[seen.run.path] = _with_cause(seen.run, settled[seen.run.path])
            _note_end(seen, settled[seen.run.path])
    return settled


def _ask_cluster(slurm_conf: str | None, members: Sequence[_Seen], queues: client.Queues) -> dict[Path, Row]:
    """The rows of one cluster's runs, settled with what its Slurm says."""
    queue = queues.of(slurm_conf)
    if queue is None:
        return {seen.run.path: replace(seen.row, scheduler=UNREACHABLE) for seen in members}
    own = {seen.run.path: jobs_of(seen.run, seen.submission, queue) for seen in members}
    gone = [
        seen.submission.job_ids[-1] for seen in members if not own[seen.run.path] and seen.submission.job_ids
    ]
    failed = [job.job_id for jobs in own.values() if (job := answers.current(jobs)) and job.state == "FAILED"]
    history = client.history([*gone, *failed], slurm_conf)
    arrays = answers.one_of_each_array(queue.values())
    settled = {}
    for seen in members:
        jobs = own[seen.run.path] or jobs_of(seen.run, seen.submission, history)
        job = answers.current(jobs)
        if job and job.job_id in history:
            job = replace(job, exit_code=history[job.job_id].exit_code)
        row = replace(seen.row, job_id=job.job_id) if job else seen.row
        if job is None and (others := perhaps_of(seen.run, seen.submission, queue)):
            row = _doubtful(row, others[-1])
        elif job is None and has_left_its_array(seen.run, seen.submission, arrays):
            row = _settle_forgotten(row)
        else:
            row = settle(row, job, bool(own[seen.run.path]), seen.submission.study)
        settled[seen.run.path] = _where(seen, row)
    return settled


def _damage(run: RunDir, state: RunState, submission: Submission) -> tuple[str, ...]:
    """Which of the two files are damaged, and why."""
    files = ((run.state_file, state.damage), (run.submission_file, submission.damage))
    return tuple(f"{file.name} is {_damaged(why)}" for file, why in files if why)


def _damaged(why: str) -> str:
    return why if why == MISSING else f"damaged ({why})"


def _with_damage(row: Row) -> Row:
    """The row whose detail says also which files are damaged."""
    return replace(row, detail="; ".join(filter(None, (row.detail, *row.damage)))) if row.damage else row


def _where(seen: _Seen, row: Row) -> Row:
    """The row, which says what to do if the folder was moved: the jobs still look for it in the old place."""
    moved = moved_from(seen.run, seen.submission)
    at_work = seen.state.phase in (Phase.RUNNING, Phase.STARTING)
    speaks = at_work and row.age_s is not None and row.age_s <= SILENCE_S
    if moved is None or seen.state.final or speaks:
        return row
    advice = _RESUMES if row.phase in FINAL else f"hpctrain cancel {row.run}, then hpctrain resume {row.run}"
    return replace(row, detail=f"its folder was moved from {moved}, where its job looks for it: {advice}")


def _with_cause(run: RunDir, row: Row) -> Row:
    """The row of a run that did not write down its end, with the reason that the logs give."""
    unexplained = row.phase == Phase.FAILED and row.reason in (Reason.ERROR, Reason.LOST, *STORAGE)
    told = failure.cause(run, row.job_id) if unexplained or row.phase == Phase.INTERRUPTED else None
    # A requeued run that could not write that it came back met bad storage; other words may be of an earlier start.
    if told is None or not (unexplained or told[0] in STORAGE):
        return row
    return replace(row, phase=Phase.FAILED, reason=told[0], detail=told[1])


def _note_end(seen: _Seen, settled: Row) -> None:
    """Write down the end, which Slurm forgets, unless somebody starts the run or the run has written meanwhile."""
    # Nobody else can start the run while this process holds the right to.
    with contextlib.suppress(OSError, RunFailed), hold(seen.run):
        if (seen.run.read_state(), seen.run.submission.read()) == (seen.state, seen.submission):
            seen.run.state.ended(settled.phase, settled.reason, settled.detail)


class Watch:
    """Tells those who wait whether a run has ended: by its own files, and by Slurm if these are silent."""

    ASK_S = 5.0

    def __init__(self, run: RunDir, say: Callable[[str], None]) -> None:
        self._run, self._say = run, say
        self._asked_s, self._said = 0.0, ""

    def ended(self) -> bool:
        """Returns whether the run has ended; says what Slurm tells of a silent run, each message once."""
        state, age_s = self._run.state.read_with_age(clock_of(self._run.path))
        if state.final:
            return True
        silent = age_s is None or age_s > HEARTBEAT_DUE_S
        if not silent or time.monotonic() - self._asked_s < self.ASK_S:
            return False
        self._asked_s = time.monotonic()
        row = row_of(self._run)
        word = "Slurm does not answer" if row.scheduler == UNREACHABLE else row.detail
        if word and word != self._said and row.phase not in FINAL:
            self._said = word
            self._say(f"{self._run.run_id}: {row.phase}: {word}")
        return row.phase in FINAL


def settle(row: Row, job: answers.Job | None, queued: bool = True, of_study: bool = False) -> Row:
    """Returns a run's row with what Slurm says about its job.

    `job` is None if Slurm does not know it. `queued`: the queue lists the job, not only accounting; `of_study`: the run
    belongs to a study. Only a state that is an end ends a run: a job that Slurm does not list may be hidden, or be
    another cluster's.
    """
    silent = row.age_s is None or row.age_s > SILENCE_S
    if job is None:
        if row.phase in FINAL:
            return row
        if row.job_id is None:
            return replace(row, scheduler=UNKNOWN, detail="Slurm has no job of this run")
        command = f"sweep --unlock {row.study}" if of_study else f"checkpoints {row.run} --unlock"
        unlock = f"if you know that it has ended: hpctrain {command}"
        return replace(row, scheduler=UNKNOWN, detail=f"Slurm knows nothing of job {row.job_id}; {unlock}")
    row = replace(row, scheduler=job.state)
    if row.phase in FINAL:  # the caller learns from `scheduler` whether the job still lives
        return row
    if job.state in answers.LIVING and not queued:
        if row.age_s is not None and row.age_s > LOST_S:
            detail = "only accounting lists its job, and the last heartbeat is a day old"
            return replace(row, phase=Phase.FAILED, reason=Reason.LOST, detail=detail)
        detail = f"accounting lists job {row.job_id} as {job.state}, but it is not in the queue"
        return replace(row, scheduler=UNKNOWN, detail=detail)
    if job.state in answers.WAITING:
        waits_again = row.phase in (Phase.RUNNING, Phase.STARTING, Phase.REQUEUED)
        phase = Phase.REQUEUED if waits_again else Phase.SUBMITTED
        return replace(row, phase=phase, reason=row.reason or job.reason, detail=f"waiting: {job.reason}")
    if job.state in answers.ACTIVE:
        return replace(row, phase=Phase.STARTING) if row.phase in (Phase.SUBMITTED, Phase.REQUEUED) else row
    reason = reason_of_slurm(job.state)
    if reason is None:
        return row
    if reason == Reason.CANCELLED:
        return replace(row, phase=Phase.CANCELLED, reason=reason, detail="cancelled in Slurm")
    if reason == Reason.DONE and not silent:
        return row  # its last word is on the way
    if reason == Reason.PREEMPTED:
        return replace(row, phase=Phase.INTERRUPTED, reason=reason, detail=_RESUMES)
    storage = None if of_study else last_word.reason_of_exit(job.exit_code)
    if storage is not None:
        detail = f"{ENDINGS[storage].text}, says the exit code of job {job.job_id}"
        return replace(row, phase=Phase.FAILED, reason=storage, detail=detail)
    if row.phase == Phase.REQUEUED:
        return replace(row, phase=Phase.INTERRUPTED, detail=_RESUMES)
    detail = row.detail or f"Slurm says {job.state}; no rank said how it ended"
    return replace(
        row, phase=Phase.FAILED, reason=Reason.LOST if reason == Reason.DONE else reason, detail=detail
    )


def _doubtful(row: Row, job: answers.Job) -> Row:
    """The row of a run whose submission is damaged; `job` may be its own, or that of a run in another folder."""
    detail = (
        f"job {job.job_id} belongs to a run with this id, and Slurm does not say in which folder; "
        f"if that is another folder: hpctrain checkpoints {row.run} --unlock"
    )
    return replace(row, job_id=job.job_id, scheduler=UNKNOWN, detail=detail)


def _settle_forgotten(row: Row) -> Row:
    """The row of a run whose job has ended; Slurm does not say how."""
    if row.phase in FINAL:
        return row
    if row.phase == Phase.SUBMITTED:
        return replace(
            row, phase=Phase.CANCELLED, reason=Reason.CANCELLED, detail="cancelled while it waited"
        )
    if row.phase == Phase.REQUEUED:
        return replace(row, phase=Phase.INTERRUPTED, detail=_RESUMES)
    if row.age_s is not None and row.age_s <= SILENCE_S:
        return row  # its last word is on the way
    detail = row.detail or f"job {row.job_id} has left its array; no rank said how it ended"
    return replace(row, phase=Phase.FAILED, reason=Reason.LOST, detail=detail)


def _settle_local(seen: _Seen) -> Row:
    """The row of a run outside of Slurm, settled by whether its launcher or one of its ranks lives on this machine."""
    run, row = seen.run, seen.row
    if copied := original(run, seen.submission):
        return replace(
            row, detail=f"this folder is a copy of {copied}, whose jobs are not its own", job_id=None
        )
    if row.phase == Phase.NEW:
        return row if _may_begin(run) else replace(row, detail=_WAITS.format(run.run_id), needs_start=True)
    if row.phase not in (Phase.RUNNING, Phase.STARTING, Phase.SUBMITTED):
        return row
    owner, ended = starter(run)
    if ended is False:
        return row
    ranks = run.newest_ranks()
    if any(local.is_rank(who) for who in ranks):
        return row
    running = [str(who["host"]) for who in ranks if who["outcome"] == RUNNING and "host" in who]
    elsewhere = [host for host in running if host != socket.gethostname()]
    if owner is not None and ended is None:
        elsewhere.insert(0, owner.host)
    if elsewhere:
        return replace(row, detail=f"runs on {elsewhere[0]}, whose processes cannot be seen from here")
    if row.age_s is None or row.age_s <= SILENCE_S:  # it may have ended just now, or be about to begin
        return row
    detail = "it sends no heartbeat, and none of its processes is left on this host"
    return replace(row, phase=Phase.FAILED, reason=Reason.LOST, detail=detail)


def _may_begin(run: RunDir) -> bool:
    """Whether a run that was never started may soon be: its folder was just made, or its starter is known to live."""
    with contextlib.suppress(OSError):
        if clock_of(run.path) - run.config_file.stat().st_mtime <= SILENCE_S:
            return True
    owner, ended = starter(run)
    if owner is not None and ended is None and owner.job_id is not None:
        ended = client.has_ended(owner.job_id, run.submission.read().slurm_conf)
    return ended is False


def table(runs_shown: list[Row], settings: Mapping[str, str]) -> Any:
    """Returns the rows as a rich table. `settings` are the swept ones by run id, {} if nothing was swept."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    drawn.add_column("run", no_wrap=True)  # other commands take the name: it must not be cut in two
    for column in (*(["settings"] if settings else []), "state", "progress", "figures", "job"):
        drawn.add_column(column, overflow="fold")
    colours = {Phase.DONE: "green", Phase.FAILED: "red", Phase.RUNNING: "cyan"}
    for r in runs_shown:
        reason = f" ({r.reason})" if r.reason and r.reason != Reason.DONE else ""
        heartbeat = ""
        if r.phase not in FINAL and r.age_s is not None:
            heartbeat = f", last heartbeat {r.age_s:.0f} s ago"
        slurm_word = f" [{r.scheduler}]" if r.scheduler in (UNREACHABLE, UNKNOWN) else ""
        keys = ("loss", "accuracy", "perplexity", "samples_per_s")
        keys_known = [k for k in keys if isinstance(r.scores.get(k), int | float)]
        phase = Text(r.phase, colours.get(r.phase, "yellow"))
        drawn.add_row(
            Text(shown(f"{r.study}/{r.run}")),
            *([shown(settings.get(r.run, ""))] if settings else []),
            phase.append(shown(f"{reason}{heartbeat}{slurm_word}"), "default"),
            "" if r.progress is None else f"{100 * r.progress:.0f} %",
            " ".join(f"{k} {measured(r.scores[k])}" for k in keys_known),
            Text(shown(r.job_id or "")),
        )
    return drawn


def as_json(runs_shown: list[Row]) -> list[dict[str, Any]]:
    """Returns the rows as JSON objects."""
    return [{key: value for key, value in vars(r).items() if key not in _NOT_IN_JSON} for r in runs_shown]
