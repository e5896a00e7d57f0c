"""The search for runs: all below a root, or the one that a user names.

Takes run.root and what the user wrote; returns run directories. Reads only. A folder that this user may not read is
named, and left out.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from hpctrain.errors import UserError, nearest
from hpctrain.shown import CONTROL
from hpctrain.storage import ownership
from hpctrain.storage.folders import absolute
from hpctrain.storage.run_dir import MARKS, RunDir


def locate(root: str, study: str, run_id: str) -> RunDir:
    """Returns the directory of a run, which need not exist."""
    return RunDir(absolute(root) / study / run_id)


def silent(words: str) -> None:
    """Ignores what it is told."""


def runs(root: Path, study: str | None = None, say: Callable[[str], None] = silent) -> Iterator[RunDir]:
    """Yields all runs in `root` that may be read, in order of study and run id; tells `say` of other folders.

    `study`, a name or a folder, chooses one study.
    """
    if may_enter(root, say):
        for folder in [Path(root) / study] if study else sorted(Path(root).glob("*/")):
            if may_enter(folder, say):
                yield from _runs_of(folder, say)


def _runs_of(study: Path, say: Callable[[str], None]) -> Iterator[RunDir]:
    with os.scandir(study) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    for name in names:
        if is_run(f"{study}/{name}") and not CONTROL.search(name):
            yield RunDir(study / name)
        else:
            may_enter(study / name, say)


def is_run(folder: str | Path) -> bool:
    """Returns whether a folder is a run's. A purge may have taken its config.yaml, and its job lives all the same."""
    # The first one is nearly always there, and any() costs as much again.
    return os.path.lexists(f"{folder}/{MARKS[0]}") or any(
        os.path.lexists(f"{folder}/{name}") for name in MARKS[1:]
    )


def may_enter(folder: Path, say: Callable[[str], None] = silent) -> bool:
    """Returns whether the entries of a folder may be read; tells `say` why not, unless the folder does not exist.

    A name that would move a terminal's cursor is left out: hpctrain makes none, and each command prints names.
    """
    if CONTROL.search(folder.name):
        say(f"{folder.parent}/{folder.name!a} is left out: its name holds a control character")
        return False
    if os.access(folder, os.R_OK | os.X_OK):
        return True
    with contextlib.suppress(FileNotFoundError):
        try:
            owner = f"belongs to {ownership.user(folder.stat().st_uid)}"
        except PermissionError:
            owner = "the folder above is closed"
        say(f"{folder} cannot be read: {owner}")
    return False


def refuse_closed(key: str, value: object, *folders: Path) -> None:
    """Raises UserError for the setting `key`, with the owner, if the entries of a folder may not be read."""
    closed: list[str] = []
    for folder in folders:
        if not may_enter(folder, closed.append) and closed:
            raise UserError(key, value, closed[0])


def find(root: str, text: str | None, study: str | None = None) -> RunDir:
    """Returns the run that `text` names: a path, a run id, a job id, the start or a part of a run id.

    None means the newest run. A number is a job rather than a part of a run id. Raises UserError unless exactly one run
    fits.
    """
    if text and is_run(Path(text)) and not CONTROL.search(text):
        return RunDir(absolute(text))
    closed: list[str] = []
    known = list(runs(absolute(root), study, closed.append))
    if not known:
        if closed:
            raise UserError("run.root", absolute(root), "; ".join(closed[:3]))
        if study:
            raise no_such_study(root, study)
        raise UserError(
            "run.root",
            absolute(root),
            "has no runs yet: --root FOLDER or HPCTRAIN_ROOT says where else to look",
        )
    if text is None:
        return max(known, key=lambda run: run.begun_s)
    for fits in (_is_named, _has_job, _begins, _contains):
        fitting = [run for run in known if fits(run, text)]
        if (
            len(fitting) > 1
        ):  # a study's job does several runs, and Slurm reuses numbers: prefer what has not ended
            fitting = [run for run in fitting if not run.read_state().final] or fitting
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            names = ", ".join(f"{r.study}/{r.run_id}" for r in fitting[:4])
            raise UserError("run", text, f"fits {len(fitting)} runs: {names}")
    raise no_such_run(root, text, [run.run_id for run in known])


def no_such_run(root: str, text: str, run_ids: Iterable[str]) -> UserError:
    """Returns the error for a name that fits none of `run_ids`, which are the runs in `root`."""
    allowed = f"no such run in {absolute(root)}; --root FOLDER or HPCTRAIN_ROOT says where else to look"
    return UserError("run", text, allowed, nearest(text, run_ids))


def no_such_study(root: str, study: str) -> UserError:
    """Returns the error for a study that `root` does not have, or of which no run was begun."""
    names = [folder.name for folder in absolute(root).glob("*/")]
    if study in names:
        return UserError("run.study", study, "has no runs yet")
    allowed = f"no such study in {absolute(root)}; --root FOLDER or HPCTRAIN_ROOT says where else to look"
    return UserError("run.study", study, allowed, nearest(study, names))


def _is_named(run: RunDir, text: str) -> bool:
    return run.run_id == text


def _has_job(run: RunDir, text: str) -> bool:
    if not re.fullmatch(r"\d+(_\d+)?", text):
        return False
    submission = run.submission.read()
    noted = Path(submission.path or run.path)  # a copy of the folder names the jobs of the original
    return text in submission.job_ids and (not noted.exists() or noted.samefile(run.path))


def _begins(run: RunDir, text: str) -> bool:
    return run.run_id.startswith(text)


def _contains(run: RunDir, text: str) -> bool:
    return text in run.run_id
