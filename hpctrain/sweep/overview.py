"""A study as `status` and `cancel` see it: runs that no job has begun, a summary line, and cancelling the study.

Takes a study's folder; returns rows and text. Side effects: those of `cancel`, and at most one squeue call.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpctrain.errors import Damaged
from hpctrain.launch.cancel import Answer
from hpctrain.launch.status import UNKNOWN, UNREACHABLE, Row
from hpctrain.scheduler import client
from hpctrain.storage.lock import Owner, has_ended, this_process
from hpctrain.storage.run_state import Phase, Reason
from hpctrain.storage.search import may_enter, runs
from hpctrain.sweep import living
from hpctrain.sweep.study_dir import Part, StudyDir

_IN_LINE = "waits for a slot of its study"
_FULL = "waits for hpctrain sweep: the jobs of the study have other runs to do"
_NO_JOB = "waits for hpctrain sweep: no job of the study is left"
_CANCELLED = "waits for hpctrain sweep: the study is cancelled"


@dataclass(frozen=True)
class _Prospects:
    """What becomes of the runs that no job has begun: `first` of them, in any order, wait in line.

    `rest` is the detail of the others, and `needs_start` whether these wait for a call of `sweep`; `scheduler` is as in
    a Row.
    """

    first: float
    rest: str = ""
    scheduler: str | None = None
    needs_start: bool = False


def waiting(
    root: Path,
    study: str | None,
    name: str | None = None,
    queues: client.Queues | None = None,
    say: Callable[[str], None] = lambda words: None,
) -> list[Row]:
    """Returns the runs of a study (None: of all studies) that no job has begun yet; says which files are damaged.

    Makes one squeue call per cluster that is not in `queues` yet.
    """
    rows, queues = [], queues or client.Queues()
    for folder in [root / study] if study else sorted(root.glob("*/")):
        place = StudyDir(folder)
        if not (may_enter(folder, say) and may_enter(place.folder, say)):
            continue
        try:
            foreign = place.foreign()
            run_ids = place.trials() if place.exists() else ()
            unbegun = [run_id for run_id in run_ids if not place.run(run_id).config_file.exists()]
            if foreign:
                prospects = _Prospects(0, f"as its study's files say: the study's folder {foreign}")
            else:
                prospects = _prospects(StudyDir(folder, own=True), queues) if unbegun else _Prospects(0)
        except OSError as error:  # Damaged, or not to be read
            say(str(error))
            continue
        for number, run_id in enumerate(unbegun):
            in_line = number < prospects.first
            if name is None or name in run_id:
                rows.append(
                    Row(place.name, run_id, Phase.SUBMITTED, None, _IN_LINE if in_line else prospects.rest,
                        None, None, None, {}, None, prospects.scheduler, None,
                        needs_start=prospects.needs_start and not in_line)
                )  # fmt: skip
    return rows


def swept(study: StudyDir) -> dict[str, str]:
    """Returns the swept settings of each run of a study, as they are typed; {} if it is not a sweep, or damaged."""
    with contextlib.suppress(Damaged):
        if study.exists():
            return {run_id: " ".join(trial.overrides) for run_id, trial in study.trials().items()}
    return {}


def _prospects(study: StudyDir, queues: client.Queues) -> _Prospects:
    if study.cancel_file.exists():
        return _Prospects(0, _CANCELLED, needs_start=True)
    parts, jobs = study.parts(), 0
    begins = 0.0
    for conf in _clusters(parts):
        if (queue := queues.of(conf)) is None:
            return _Prospects(math.inf, scheduler=UNREACHABLE)
        for job in living.in_slurm(study, queue):
            begins += math.inf if job.begins is None else job.begins
            jobs += 1
    if not all(part["on_slurm"] for part in parts):
        live, elsewhere = living.here(study)
        if live:
            begins = math.inf
        elif elsewhere:
            return _Prospects(0, living.elsewhere(study), scheduler=UNKNOWN)
    return _Prospects(begins, _FULL if jobs else _NO_JOB, needs_start=not jobs)


def summary(study: StudyDir, rows: list[Row]) -> str:
    """Returns what stands above the table: how far the study is, and what is not known of its runs, if so."""
    counts = Counter("paused" if r.reason == Reason.PAUSED else r.phase for r in rows)
    phases = ", ".join(f"{n} {phase}" for phase, n in counts.most_common())
    jobs = f"; job arrays {', '.join(study.job_ids())}" if study.job_ids() else ""
    ended = "; cancelled" if study.cancel_file.exists() else ""
    doubts = dict.fromkeys(r.detail for r in rows if r.scheduler == UNKNOWN and r.detail)
    return "\n".join([f"study {study.name}: {len(rows)} runs: {phases}{jobs}{ended}", *list(doubts)[:1]])


def cancel(study: StudyDir) -> Answer:
    """Stops a study: no further run begins, and running ones save and stop.

    `hpctrain sweep` continues the study.
    """
    if foreign := study.foreign():
        return Answer(f"is not yours to cancel: its folder {foreign}", taken=False)
    study = StudyDir(study.path, own=True)
    study.cancel_file.touch()
    members = list(runs(study.path.parent, study.name))
    open_runs = [run for run in members if not run.read_state().final]
    for run in open_runs:
        run.cancel_file.touch()
    parts, damage = study.readable_parts()
    clusters = _clusters(parts)
    if damage:  # the runs name their cluster as well
        submissions = [run.submission.read() for run in members]
        clusters |= {submission.slurm_conf for submission in submissions if submission.in_slurm}
    try:
        for job in study.jobs():
            if job["job_id"] is None and job["until"] is None and _is_here(owner := Owner(**job["owner"])):
                os.kill(owner.pid, signal.SIGTERM)
    except Damaged as error:
        damage.append(str(error))
    try:
        for conf in clusters:
            client.cancel(living.ids_in_slurm(study, client.queue(conf)), conf)
    except client.Unreachable as error:
        return Answer(f"Slurm did not take the request: {error}; try again", taken=False)
    done = f"no further run begins; {len(open_runs)} under way were asked to save and stop"
    return Answer("; ".join([done, *damage]), taken=not damage)


def _clusters(parts: Sequence[Part]) -> set[str | None]:
    """The clusters to which the study's calls of `sweep` have submitted, by slurm.conf."""
    return {part["slurm_conf"] for part in parts if part["on_slurm"]}


def _is_here(owner: Owner) -> bool:
    mine = this_process(0)
    return owner.boot == mine.boot and not has_ended(owner, mine, None)
