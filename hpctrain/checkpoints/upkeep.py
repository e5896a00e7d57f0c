"""Upkeep of a run's checkpoints: listing, verifying, looking up by name, pruning, unlocking.

Takes run directories. Only `prune` and `unlock` change anything, and they refuse while a run is being written. No
torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NotRequired, TypedDict

from hpctrain.checkpoints import store
from hpctrain.checkpoints.policy import Retention
from hpctrain.checkpoints.store import CorruptCheckpoint, Entry
from hpctrain.config.load import from_dict
from hpctrain.errors import Damaged, RunFailed, UserError, nearest
from hpctrain.storage import lock
from hpctrain.storage.files import FILES, refuse_if_shared
from hpctrain.storage.lock import JobEnded
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Phase, Reason, RunState

Tick = Callable[[int], None]  # is called with the number of bytes that have been read


class Row(TypedDict):
    """A checkpoint as it is listed. `state`: committed, superseded, good (every byte was verified) or broken.

    If it is broken, only its name, its step and the error are known.
    """

    name: str
    step: int
    bytes: int | None
    error: str | None
    state: str
    saved: NotRequired[float]
    epoch: NotRequired[float]
    world_size: NotRequired[int]
    attempt: NotRequired[int]
    metric: NotRequired[float | None]


def rows(folder: Path) -> list[Row]:
    """Returns a row for each checkpoint, oldest first. No tensors are read."""
    committed, late = store.entries(folder), store.superseded(folder)
    return [_row(folder, entry, entry in late) for entry in sorted(committed + late)]


def _row(folder: Path, entry: Entry, late: bool) -> Row:
    try:
        manifest = store.read_manifest(folder, entry)
        meta, _ = store.read_document(folder, entry, manifest)
        saved = (folder / entry.name / "manifest.json").stat().st_mtime
    except (CorruptCheckpoint, OSError) as error:
        return {"name": entry.name, "step": entry.step, "bytes": None, "error": str(error), "state": "broken"}
    return {
        "name": entry.name,
        "step": entry.step,
        "bytes": sum(record.bytes for record in manifest.files.values()),
        "error": None,
        "state": "superseded" if late else "committed",
        "saved": saved,
        "epoch": meta.epoch,
        "world_size": meta.world_size,
        "attempt": meta.attempt,
        "metric": store.metric_of(meta),
    }


def verified(folder: Path, row: Row, tick: Tick) -> Row:
    """Returns the row, with `state` good or broken after every byte was read and compared with its digest."""
    entry = store.parse(row["name"])
    if row["state"] == "broken" or entry is None:
        return row
    try:
        store.verify(folder, entry, tick)
    except CorruptCheckpoint as error:
        return {**row, "state": "broken", "error": str(error)}
    return {**row, "state": "good"}


def put_aside(folder: Path) -> list[str]:
    """Returns the names of the broken checkpoints that were put aside."""
    return sorted(path.name for path in folder.glob("broken.*"))


def locate(run: RunDir, text: str) -> tuple[Path, Entry]:
    """Returns the folder and the entry of the checkpoint with this step, name or path. Raises UserError."""
    if "/" in text:
        path = Path(text).resolve()
        entry = store.parse(path.name)
        if entry is None or not path.is_dir():
            raise UserError("--diff", text, "must be a step, a name, or the path of a step_... folder")
        return path.parent, entry
    entries = store.entries(run.checkpoints)
    fits = [e for e in entries if text in (e.name, str(e.step))]
    if not fits:
        steps = [str(entry.step) for entry in entries]
        raise UserError("--diff", text, f"must be one of {', '.join(steps)}", nearest(text, steps))
    return run.checkpoints, fits[-1]


def choose(run: RunDir, text: str) -> Entry:
    """Returns the checkpoint that `text` names: `best`, `last` or a step. Raises UserError."""
    entries = store.entries(run.checkpoints)
    if not entries:
        raise UserError("run", run.run_id, "has no checkpoint to export")
    if text == "last":
        return entries[-1]
    if text == "best":
        scored = []
        for entry in entries:
            with contextlib.suppress(CorruptCheckpoint, Damaged):  # a damaged checkpoint cannot be the best
                if (metric := store.metric_of(store.read_meta(run.checkpoints, entry))) is not None:
                    scored.append((metric, entry))
        if not scored:
            raise UserError("--step", text, "no checkpoint here has been validated")
        return min(scored)[1]
    fits = [entry for entry in entries if str(entry.step) == text]
    if not fits:
        steps = [str(entry.step) for entry in entries]
        raise UserError("--step", text, f"must be best, last or one of {', '.join(steps)}")
    return fits[-1]


def prune(run: RunDir, keep_last: int | None, job_ended: JobEnded) -> list[str]:
    """Delete the checkpoints that checkpoint.keep_* does not keep. Returns their names.

    `keep_last`, if given, replaces checkpoint.keep_last. Raises RunFailed while the run is being written.
    """
    run.refuse_others()
    settings = from_dict(run.own_config()).checkpoint
    if keep_last is not None:
        settings = replace(settings, keep_last=keep_last)
    refuse_if_shared(run.checkpoints)
    with lock.acquire(run.checkpoints, max(run.attempts(), default=0), job_ended):
        late = store.superseded(run.checkpoints)
        for entry in late:
            store.delete(run.checkpoints, entry, FILES)
        deleted = late + Retention(run.checkpoints, settings).prune()
        store.sweep(run.checkpoints, FILES)
    return [entry.name for entry in deleted]


def unlock(run: RunDir, job_ended: JobEnded) -> list[str]:
    """Declare ended the processes that last wrote and last started the run, and its jobs. Returns a text for each.

    Raises RunFailed if one of them is known to be alive, UserError if other users can write to the run's folders.
    """
    run.refuse_others()
    mine, folders, ended = lock.this_process(0), (run.checkpoints, run.start_folder), []
    for owner in filter(None, map(lock.last_owner, folders)):
        if lock.has_ended(owner, mine, job_ended) is False:
            raise RunFailed(
                Reason.RUN_LOCKED, f"process {owner.pid} on {owner.host} is alive: hpctrain cancel it"
            )
        who = f"process {owner.pid} on {owner.host}"
        ended.append(f"attempt {owner.attempt} ({who})" if owner.attempt else who)
    submission, state = run.submission.read(), run.read_state()
    if submission.in_slurm and not state.final:
        alive = [job_id for job_id in submission.job_ids if job_ended(job_id) is False]
        if alive:
            raise RunFailed(Reason.RUN_LOCKED, f"job {alive[-1]} is alive: hpctrain cancel it")
        ended.append(f"job {submission.job_ids[-1]}" if submission.job_ids else "a submission")
    for folder in folders:
        lock.unlock(folder)
    began = state != RunState()
    if not state.final and (began or submission.in_slurm):
        run.submission.write(replace(submission, over=True))
    if not state.final and began:
        run.state.ended(Phase.FAILED, Reason.LOST, "a user said that it has ended")
    return ended
