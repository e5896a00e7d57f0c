"""A study's own folder: every file name below runs/<study>/.study/, and who writes it.

    parts/<n>.json               what the n-th `sweep` asked for: settings, space, and the runs that it added   sweep
    suggested/<n>.json           the n-th suggestion of a sampler, as a run                                     a job
    claims/<run>.<rung>.<n>.json the n-th time that a job took this piece of work                               that job
    ended/<run>.<rung>.json      how this piece of work ended, with the metric's value                          that job
    jobs/<token>.json            from when to when a job of the study was at work                               that job
    submissions.json             the ids of the arrays                                                          sweep
    journal.log                  Optuna's                                                                       the jobs
    submitit/                    submitit's own files
    cancel                       there while the study is cancelled

A piece of work is a run and a rung: without pruning every run has the one rung 0. New files appear complete,
by link(2), which fails where another was faster: nobody needs a lock, and whatever is killed leaves nothing
half done. Standard library only, and no torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpctrain.storage.files import FILES, write_file
from hpctrain.storage.run_dir import RunDir, make_private, read_json, replace_text

NAME = ".study"


@dataclass(frozen=True)
class Trial:
    """One run of a study: what of it was swept, as overrides and as values, and its whole configuration.

    `fixed` are the overrides that its call of `sweep` gave to all runs; the call's part of the study keeps them.
    """

    run_id: str
    overrides: tuple[str, ...]
    params: Mapping[str, Any]
    config: Mapping[str, Any]
    fixed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Work:
    """A run to do, up to the end of a rung; `epochs` is where it pauses (None: it goes to its end)."""

    run_id: str
    rung: int = 0
    epochs: int | None = None

    @property
    def key(self) -> str:
        return f"{self.run_id}.{self.rung}"


class StudyDir:
    """Paths and small files of one study. Cheap to make; touches nothing until asked."""

    def __init__(self, path: Path) -> None:
        """`path`: runs/<study>."""
        self.path, self.folder = path, path / NAME
        self._read: dict[Path, dict[str, Any]] = {}  # parts and suggestions do not change

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def claims(self) -> Path:
        return self.folder / "claims"

    @property
    def submitit(self) -> Path:
        return self.folder / "submitit"

    @property
    def journal(self) -> Path:
        return self.folder / "journal.log"

    @property
    def cancel_file(self) -> Path:
        return self.folder / "cancel"

    def exists(self) -> bool:
        """Whether anything was asked of it yet: its first `sweep` may be making the folder just now."""
        return bool(self._numbers("parts"))

    def create(self) -> None:
        make_private(self.path)
        make_private(self.folder)
        for name in ("parts", "suggested", "claims", "ended", "jobs", "submitit"):
            FILES.make_folder(self.folder / name)

    def run(self, run_id: str) -> RunDir:
        return RunDir(self.path / run_id)

    def parts(self) -> list[dict[str, Any]]:
        """What each `sweep` asked for, in order."""
        return [part for n in self._numbers("parts") if (part := self._once("parts", n))]

    def add_part(self, part: Mapping[str, Any]) -> None:
        """Publish what a `sweep` asks for as the next part."""
        _publish_next(self.folder / "parts", self._numbers("parts"), part)

    def add_suggestion(self, trial: Trial, facts: Mapping[str, Any], limit: int) -> bool:
        """Publish a sampler's next suggestion; False if there are `limit` already."""
        numbers = self._numbers("suggested")
        return _publish_next(self.folder / "suggested", numbers, asdict(trial) | dict(facts), limit)

    def suggestions(self, after: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        for n in self._numbers("suggested"):
            if n > after and (found := self._once("suggested", n)):
                yield n, found

    def trials(self) -> dict[str, Trial]:
        """All runs of the study so far, by run id, in the order in which they were added."""
        found: dict[str, Trial] = {}
        parts = self.parts()
        made = [(values, part) for part in parts for values in part["trials"]]
        made += [(values, parts[-1]) for _, values in self.suggestions()]
        for values, part in made:
            fixed = tuple(part.get("fixed", ()))
            found.setdefault(values["run_id"], as_trial(values, fixed))
        return found

    def ended(self) -> dict[str, dict[str, Any]]:
        """How pieces of work ended, by key."""
        return {key: facts for key in self.ended_keys() if (facts := self.read_ended(key))}

    def ended_keys(self) -> set[str]:
        return {name.removesuffix(".json") for name in _names(self.folder / "ended")}

    def has_ended(self, work: Work) -> bool:
        return (self.folder / "ended" / f"{work.key}.json").exists()

    def read_ended(self, key: str) -> dict[str, Any] | None:
        return read_json(self.folder / "ended" / f"{key}.json")

    def write_ended(self, work: Work, facts: Mapping[str, Any]) -> None:
        replace_text(self.folder / "ended" / f"{work.key}.json", json.dumps(dict(facts)))

    def open_again(self, run_id: str) -> None:
        """Forget how this run ended: it will be done again, from its checkpoint if it has one."""
        for key in self.ended_keys():
            if key.rpartition(".")[0] == run_id:
                (self.folder / "ended" / f"{key}.json").unlink(missing_ok=True)

    def write_job(self, token: str, facts: Mapping[str, Any]) -> None:
        replace_text(self.folder / "jobs" / f"{token}.json", json.dumps(dict(facts)))

    def jobs(self) -> list[dict[str, Any]]:
        return [
            facts
            for name in _names(self.folder / "jobs")
            if (facts := read_json(self.folder / "jobs" / name))
        ]

    def job_ids(self) -> list[str]:
        return list((read_json(self.folder / "submissions.json") or {}).get("job_ids", []))

    def note_job(self, job_id: str) -> None:
        ids = [*self.job_ids(), job_id]
        replace_text(self.folder / "submissions.json", json.dumps({"job_ids": ids}))

    def _once(self, folder: str, number: int) -> dict[str, Any] | None:
        path = self.folder / folder / f"{number}.json"
        if path not in self._read and (found := read_json(path)):
            self._read[path] = found
        return self._read.get(path)

    def _numbers(self, folder: str) -> list[int]:
        stems = [name.removesuffix(".json") for name in _names(self.folder / folder)]
        return sorted(int(stem) for stem in stems if stem.isdigit())


def as_trial(values: Mapping[str, Any], fixed: tuple[str, ...] = ()) -> Trial:
    return Trial(values["run_id"], tuple(values["overrides"]), values["params"], values["config"], fixed)


def publish(path: Path, content: bytes) -> bool:
    """A new file, complete and durable, or False if there is one of that name. Raises OSError."""
    draft = path.parent / f".draft.{path.name}.{os.urandom(4).hex()}"
    try:
        write_file(draft, [memoryview(content)], FILES)
        return FILES.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _publish_next(
    folder: Path, numbers: list[int], values: Mapping[str, Any], limit: int | None = None
) -> bool:
    content = json.dumps(dict(values)).encode()
    number = max(numbers, default=0) + 1
    while limit is None or number <= limit:
        if publish(folder / f"{number}.json", content):
            return True
        number += 1
    return False


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if not e.name.startswith(".") and e.name.endswith(".json"))
    except FileNotFoundError:
        return []
