"""A study's own folder: every file name below runs/<study>/.study/, and who writes it.

    parts/<n>.json               what the n-th `sweep` asked for: settings, space, and the runs that it added   sweep
    suggested/<n>.json           the n-th suggestion of a sampler, as a run                                     a job
    claims/<run>.<rung>.<n>.json the n-th time that a job took this piece of work                               that job
    ended/<run>.<rung>.json      how this piece of work ended, with the metric's value                          that job
    jobs/<token>.json            from when to when a job of the study was at work                               that job
    submissions.json             the ids of the arrays and their quotas; of local jobs, their processes         sweep
    journal.log                  Optuna's                                                                       the jobs
    submitit/                    submitit's own files
    cancel                       there while the study is cancelled

A piece of work is a run and a rung; without pruning every run has the single rung 0. New files appear complete by
link(2), which fails if another process was faster: no lock is needed, and a killed process leaves nothing half
done. Standard library only, no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, Required, TypeVar, cast

from typing_extensions import TypedDict

from hpctrain.errors import Damaged
from hpctrain.storage import ownership
from hpctrain.storage.files import FILES, write_file
from hpctrain.storage.folders import make_private, refuse_others
from hpctrain.storage.json_files import Number, load, replace_text
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import JobId
from hpctrain.storage.search import refuse_closed

NAME = ".study"

T = TypeVar("T")


@dataclass(frozen=True)
class Trial:
    """One run of a study: its swept settings, as overrides and as values, and its whole configuration.

    `fixed` holds the overrides that its call of `sweep` gave to all runs; the part of that call stores them.
    `contents` is what its id was made of (identify.digests); None in studies of version 0.1.0.
    """

    run_id: str
    overrides: tuple[str, ...]
    params: Mapping[str, Any]
    config: Mapping[str, Any]
    fixed: tuple[str, ...] = ()
    contents: Mapping[str, Any] | None = None


class StoredTrial(TypedDict):
    """A trial in a file."""

    run_id: str
    overrides: list[str]
    params: dict[str, Any]
    config: dict[str, Any]
    fixed: NotRequired[list[str]]
    contents: NotRequired[dict[str, Any] | None]


class Suggestion(StoredTrial):
    """suggested/<n>.json; `optuna`: the number that Optuna gave the trial."""

    optuna: int


class Part(TypedDict, total=False):
    """parts/<n>.json: what a `sweep` asked for. `space` is swept.as_json's; `sweep` is its SweepConfig, plain.

    `path` is the study's folder as this `sweep` knew it, `comment` that of its jobs.
    """

    path: str
    comment: str
    time: Number
    user: str
    command: str
    fixed: list[str]
    space: list[dict[str, Any]]
    sweep: dict[str, Any]
    task: str
    ranks: int
    on_slurm: bool
    signal_s: int
    slurm_conf: str | None
    trials: Required[list[StoredTrial]]


class Ended(TypedDict):
    """ended/<run>.<rung>.json: how a piece of work ended. `phase` is one of claims.JUDGED.

    `seconds`: how long the last turn held its slot; `job`: the token of the job that did it. Both are missing if no
    job could do the work.
    """

    value: float | None
    epochs: float
    phase: str
    reason: str | None
    detail: str | None
    seconds: NotRequired[float]
    job: NotRequired[str]


class JobRecord(TypedDict):
    """jobs/<token>.json: a job of the study, its slots (`lanes`), and from when to when it was at work.

    `owner` is lock.Owner's fields; `until` is None while the job goes on, `seen` its last sign of life. The job has
    begun `taken` runs, of at most `quota` (None: no limit), and `busy` of them run now.
    """

    job_id: str | None
    lanes: int
    began: Number
    until: Number | None
    owner: dict[str, Any]
    seen: Number
    quota: NotRequired[int | None]
    taken: NotRequired[int]
    busy: NotRequired[int]


class _Submissions(TypedDict):
    job_ids: list[JobId]
    quotas: NotRequired[dict[str, int | None]]
    processes: NotRequired[list[dict[str, Any]]]


@dataclass(frozen=True)
class Work:
    """A run to do up to the end of a rung; it pauses after `epochs` (None: it runs to its end)."""

    run_id: str
    rung: int = 0
    epochs: int | None = None

    @property
    def key(self) -> str:
        """The name of this piece of work in file names."""
        return f"{self.run_id}.{self.rung}"


class StudyDir:
    """Paths and small files of one study. Constructing it does no I/O.

    Reading and writing raise OSError: Damaged for a file that does not hold what belongs into it.
    """

    def __init__(self, path: Path, own: bool = False) -> None:
        """`path` is runs/<study>. `own`: its files are acted on, not only shown, so those of others raise Foreign."""
        self.path, self.folder, self._own = path, path / NAME, own
        self._read: dict[Path, object] = {}  # parts and suggestions do not change

    @property
    def name(self) -> str:
        """The study's name."""
        return self.path.name

    @property
    def comment(self) -> str:
        """The comment by which Slurm knows the study's jobs, also those whose submitter died."""
        for part in reversed(self.readable_parts()[0]):
            if "path" in part and _is_same(part["path"], self.path):
                return str(part["comment"])
        return f"hpctrain:study:{hashlib.sha256(str(self.path.resolve()).encode()).hexdigest()[:16]}"

    def moved_from(self) -> dict[str, str]:
        """Returns earlier folders of the study that are gone, with the comments of the jobs submitted there."""
        noted = {part["path"]: part["comment"] for part in self.parts() if "path" in part}
        return {path: comment for path, comment in noted.items() if not os.path.lexists(path)}

    @property
    def job_name(self) -> str:
        """The name of the study's jobs."""
        return f"sweep-{self.name}"

    @property
    def claims(self) -> Path:
        """The folder of claims on pieces of work."""
        return self.folder / "claims"

    @property
    def submitit(self) -> Path:
        """The folder of submitit's own files."""
        return self.folder / "submitit"

    @property
    def journal(self) -> Path:
        """Optuna's journal."""
        return self.folder / "journal.log"

    @property
    def cancel_file(self) -> Path:
        """The file that exists while the study is cancelled."""
        return self.folder / "cancel"

    def exists(self) -> bool:
        """Returns whether a `sweep` has written its part; the first one may just be creating the folder."""
        return bool(self._numbers("parts"))

    def foreign(self) -> str | None:
        """Returns why the study is not this user's alone; None if it is. Raises OSError."""
        return ownership.foreign(self.path) or ownership.foreign(self.folder)

    def refuse_others(self) -> None:
        """Raises UserError if users other than this one can write to the study's folders."""
        refuse_others(self.path.parent, self.folder)

    def refuse_closed(self) -> None:
        """Raises UserError, with the owner, if this user may not read the study or what `sweep` wrote about it."""
        refuse_closed("run.study", self.name, self.path, self.folder, self.folder / "parts")

    def create(self) -> None:
        """Creates the study's folders."""
        make_private(self.path)
        make_private(self.folder)
        for name in ("parts", "suggested", "claims", "ended", "jobs", "submitit"):
            FILES.make_folder(self.folder / name)

    def run(self, run_id: str) -> RunDir:
        """Returns the folder of a run of the study."""
        return RunDir(self.path / run_id)

    def parts(self) -> list[Part]:
        """Returns what each `sweep` asked for, in order."""
        return [part for n in self._numbers("parts") if (part := self._once("parts", n, Part))]

    def readable_parts(self) -> tuple[list[Part], list[str]]:
        """Returns the parts that can be read, and a line for each damaged one that says what is wrong with it."""
        parts, damage = [], []
        for n in self._numbers("parts"):
            try:
                if part := self._once("parts", n, Part):
                    parts.append(part)
            except Damaged as error:
                damage.append(str(error))
        return parts, damage

    def add_part(self, part: Part) -> None:
        """Publishes what a `sweep` asks for as the next part."""
        _publish_next(self.folder / "parts", self._numbers("parts"), part)

    def add_suggestion(self, trial: Trial, optuna: int, limit: int) -> bool:
        """Publishes a sampler's next suggestion; returns False if there are `limit` already."""
        suggestion: Suggestion = {**stored(trial), "optuna": optuna}
        return _publish_next(self.folder / "suggested", self._numbers("suggested"), suggestion, limit)

    def suggestions(self) -> Iterator[tuple[int, Suggestion]]:
        """Yields the number and content of each suggestion."""
        for n in self._numbers("suggested"):
            if suggestion := self._once("suggested", n, Suggestion):
                yield n, suggestion

    def trials(self) -> dict[str, Trial]:
        """Returns all runs of the study so far by run id, in the order in which they were added."""
        by_id: dict[str, Trial] = {}
        parts = self.parts()
        made: list[tuple[StoredTrial, Part]] = [(values, part) for part in parts for values in part["trials"]]
        made += [(values, parts[-1]) for _, values in self.suggestions()]
        for values, part in made:
            fixed = tuple(part.get("fixed", ()))
            by_id.setdefault(values["run_id"], as_trial(values, fixed))
        return by_id

    def ended(self) -> dict[str, Ended]:
        """Returns how pieces of work ended, by key."""
        return {key: facts for key in self.ended_keys() if (facts := self.read_ended(key))}

    def ended_keys(self) -> set[str]:
        """Returns the keys of all pieces of work that have ended."""
        return {name.removesuffix(".json") for name in _names(self.folder / "ended")}

    def has_ended(self, work: Work) -> bool:
        """Returns whether this piece of work has ended."""
        return (self.folder / "ended" / f"{work.key}.json").exists()

    def read_ended(self, key: str) -> Ended | None:
        """Returns how a piece of work ended; None if it has not. Raises Damaged."""
        return load(self.folder / "ended" / f"{key}.json", Ended)

    def write_ended(self, work: Work, ended: Ended) -> None:
        """Records how a piece of work ended."""
        replace_text(self.folder / "ended" / f"{work.key}.json", json.dumps(ended))

    def open_again(self, run_id: str) -> None:
        """Forgets how this run ended, so that it is done again, from its checkpoint if it has one."""
        for key in self.ended_keys():
            if key.rpartition(".")[0] == run_id:
                (self.folder / "ended" / f"{key}.json").unlink(missing_ok=True)

    def write_job(self, token: str, record: JobRecord) -> None:
        """Records when a job of the study was at work."""
        replace_text(self.folder / "jobs" / f"{token}.json", json.dumps(record))

    def jobs(self) -> list[JobRecord]:
        """Returns the records of the study's jobs."""
        records = [
            load(self.folder / "jobs" / name, JobRecord, self._own) for name in _names(self.folder / "jobs")
        ]
        return [record for record in records if record]

    def job_ids(self) -> list[str]:
        """Returns the ids of the study's job arrays."""
        noted = self._submissions()
        return list(noted["job_ids"]) if noted else []

    def quotas(self) -> dict[str, int | None]:
        """Returns the most runs per job of each array by its id; None: no limit."""
        noted = self._submissions()
        return dict(noted.get("quotas", {})) if noted else {}

    def processes(self) -> list[dict[str, Any]]:
        """Returns lock.Owner's fields of the processes that wait for local jobs, or waited."""
        noted = self._submissions()
        return list(noted.get("processes", [])) if noted else []

    def count_as_ended(self, doubtful: Callable[[Mapping[str, Any]], bool]) -> list[dict[str, Any]]:
        """Notes that the local jobs' processes (lock.Owner's fields) that are `doubtful` have ended; returns them."""
        noted, ended = self._submissions(), []
        for owner in noted.get("processes", []) if noted else ():
            if doubtful(owner):
                ended.append(dict(owner))
                owner["ended"] = True
        if ended:
            replace_text(self.folder / "submissions.json", json.dumps(noted))
        for name in _names(self.folder / "jobs"):
            record = load(self.folder / "jobs" / name, JobRecord, self._own)
            if record and record["job_id"] is None and record["until"] is None and doubtful(record["owner"]):
                ended.append(record["owner"])
                self.write_job(name.removesuffix(".json"), {**record, "until": record["seen"]})
        return ended

    def note_job(self, job_id: str, quota: int | None, process: Mapping[str, Any] | None = None) -> None:
        """Adds a job array of at most `quota` runs per job, or a local job: lock.Owner's fields of its `process`."""
        values = {
            "job_ids": [*self.job_ids(), job_id],
            "quotas": self.quotas() | {job_id: quota},
            "processes": [*self.processes(), *([dict(process)] if process else [])],
        }
        replace_text(self.folder / "submissions.json", json.dumps(values))

    def _submissions(self) -> _Submissions | None:
        return load(self.folder / "submissions.json", _Submissions, self._own)

    def _once(self, folder: str, number: int, kind: type[T]) -> T | None:
        path = self.folder / folder / f"{number}.json"
        if path not in self._read and (content := load(path, kind, self._own)) is not None:
            self._read[path] = content
        return cast("T | None", self._read.get(path))

    def _numbers(self, folder: str) -> list[int]:
        stems = [name.removesuffix(".json") for name in _names(self.folder / folder)]
        return sorted(int(stem) for stem in stems if stem.isdigit())


def stored(trial: Trial) -> StoredTrial:
    """Returns the trial as a part or a suggestion stores it."""
    return {
        "run_id": trial.run_id,
        "overrides": list(trial.overrides),
        "params": dict(trial.params),
        "config": dict(trial.config),
        "fixed": list(trial.fixed),
        "contents": None if trial.contents is None else dict(trial.contents),
    }


def as_trial(values: StoredTrial, fixed: tuple[str, ...] = ()) -> Trial:
    """Returns the trial that a part or a suggestion stores."""
    return Trial(
        values["run_id"],
        tuple(values["overrides"]),
        values["params"],
        values["config"],
        fixed,
        values.get("contents"),
    )


def publish(path: Path, content: bytes) -> bool:
    """Creates a complete and durable file; returns False if one of that name exists. Raises OSError."""
    draft = path.parent / f".draft.{path.name}.{os.urandom(4).hex()}"
    try:
        write_file(draft, [memoryview(content)], FILES)
        return FILES.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _publish_next(
    folder: Path, numbers: list[int], values: Part | Suggestion, limit: int | None = None
) -> bool:
    content = json.dumps(values).encode()
    number = max(numbers, default=0) + 1
    while limit is None or number <= limit:
        if publish(folder / f"{number}.json", content):
            return True
        number += 1
    return False


def _is_same(noted: str, path: Path) -> bool:
    try:
        return noted == str(path) or path.samefile(noted)
    except OSError:
        return False


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if not e.name.startswith(".") and e.name.endswith(".json"))
    except FileNotFoundError:
        return []
