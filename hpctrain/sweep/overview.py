"""A study as `status` and `cancel` see it: runs that wait for a slot, a summary line, and cancelling all of it.

Takes a study's folder; returns rows and text. Side effects: those of `cancel`, and at most one squeue call.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from hpctrain.errors import Damaged
from hpctrain.launch.cancel import Answer
from hpctrain.launch.status import Row
from hpctrain.scheduler import answers, client
from hpctrain.storage.lock import Owner, has_ended, this_process
from hpctrain.storage.run_state import Phase, Reason
from hpctrain.sweep.study_dir import StudyDir


def waiting(
    root: Path, study: str | None, name: str | None = None, say: Callable[[str], None] = lambda words: None
) -> list[Row]:
    """Returns the runs of a study (None: of all studies) that no job has begun yet; says which files are damaged."""
    rows = []
    for folder in sorted(root.glob(f"{study or '*'}/")):
        place = StudyDir(folder)
        try:
            trials = place.trials() if place.exists() else {}
        except Damaged as error:
            say(str(error))
            continue
        for run_id in trials:
            if (name is None or name in run_id) and not place.run(run_id).config_file.exists():
                rows.append(
                    Row(place.name, run_id, Phase.SUBMITTED, None, "waits for a slot of its study", None, None, None,
                        {}, None, None, None)
                )  # fmt: skip
    return rows


def summary(study: StudyDir, rows: list[Row]) -> str:
    """Returns the line above the table that says how far the study is."""
    counts = Counter("paused" if r.reason == Reason.PAUSED else r.phase for r in rows)
    phases = ", ".join(f"{n} {phase}" for phase, n in counts.most_common())
    jobs = f"; job arrays {', '.join(study.job_ids())}" if study.job_ids() else ""
    ended = "; cancelled" if study.cancel_file.exists() else ""
    return f"study {study.name}: {len(rows)} runs: {phases}{jobs}{ended}"


def cancel(study: StudyDir) -> Answer:
    """Stops a study: no further run begins, and running ones save and stop.

    `hpctrain sweep` continues the study.
    """
    study.cancel_file.touch()
    stopped = 0
    for run_id in study.trials():
        run = study.run(run_id)
        if run.config_file.exists() and not run.read_state().final:
            run.cancel_file.touch()
            stopped += 1
    part = study.parts()[-1]
    if part["on_slurm"]:
        try:
            queue = client.queue(part["slurm_conf"])
            living = [
                j.job_id for j in queue.values() if j.comment == study.comment and j.state in answers.LIVING
            ]
            client.cancel(living, part["slurm_conf"])
        except client.Unreachable as error:
            return Answer(f"Slurm did not take the request: {error}; try again", taken=False)
    else:
        for job in study.jobs():
            if job["until"] is None and _is_here(owner := Owner(**job["owner"])):
                os.kill(owner.pid, signal.SIGTERM)
    return Answer(f"no further run begins; {stopped} under way were asked to save and stop")


def _is_here(owner: Owner) -> bool:
    mine = this_process(0)
    return owner.boot == mine.boot and not has_ended(owner, mine, None)
