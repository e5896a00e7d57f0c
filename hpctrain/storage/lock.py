"""One writer per run: an attempt that may write holds a term, whose number is one higher than the last.

Takes a folder on shared storage; keeps terms/<n>.json there, the owner of term n: attempt, host, process,
Slurm job and restart count, and the step from which its work began. A term is taken by link(2), which
fails if another was faster (also over NFS, on which flock may not work), and only once the owner of the
last one is known to have ended. The numbers only grow: a zombie, an attempt that others believe dead,
still holds its old number, and readers drop what it wrote beyond the step at which a later term began.
No torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from hpctrain import job_environment
from hpctrain.errors import Damaged, RunFailed
from hpctrain.patience import Patience
from hpctrain.storage.files import FILES, Files, replace_file, seal, unseal, write_file
from hpctrain.storage.json_files import read_small
from hpctrain.storage.run_state import Reason

# Takes a Slurm job id; returns whether that job has ended, None if Slurm does not say.
JobEnded = Callable[[str], bool | None]

ASK_S = 5.0  # one look at the last owner takes about this long, with a question to Slurm


@dataclass(frozen=True)
class Owner:
    """Who holds a term. `machine`, `boot`, `pid` and `started` together name one process for ever."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    attempt: int
    host: str
    machine: str
    boot: str
    pid: int
    started: str
    job_id: str | None
    restarts: int
    since: float
    step: int | None = None
    ended: bool = False


_OWNER = TypeAdapter(Owner)


@dataclass
class Term:
    """The right to write, until a later term is taken."""

    folder: Path
    number: int
    owner: Owner
    files: Files = FILES

    def begin(self, step: int) -> None:
        """Records the step from which this term's work counts; call it before any commit. Raises OSError."""
        self._write(step=step)

    def stands(self) -> bool:
        """Returns whether no later term was taken. Raises RunFailed("STORAGE_ERROR") if the terms are gone."""
        newest = _newest(self.folder)
        if newest < self.number:
            why = "was moved or removed, or its files were, while the run was at work"
            raise RunFailed(Reason.STORAGE_ERROR, f"{self.folder} {why}")
        return newest == self.number

    def confirm(self) -> None:
        """Raises RunFailed("RUN_LOCKED") if a later term was taken; else what `stands` raises."""
        if not self.stands():
            owner = _read(self.folder, _newest(self.folder))
            raise RunFailed(
                Reason.RUN_LOCKED, f"attempt {owner.attempt} on {owner.host} has taken this run over"
            )

    def release(self) -> None:
        """Ends the term, so that the next owner need not ask whether this one lives. Raises OSError."""
        if self.stands():
            self._write(ended=True)

    def __enter__(self) -> Term:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(
            OSError, RunFailed
        ):  # if it is not released, the next owner looks for our process
            self.release()

    def _write(self, **changes: int | bool) -> None:
        self.owner = dataclasses.replace(self.owner, **changes)  # type: ignore[arg-type]
        replace_file(_path(self.folder, self.number), seal(dataclasses.asdict(self.owner)), self.files)


def acquire(
    folder: Path,
    attempt: int,
    job_ended: JobEnded | None = None,
    patience_s: float = 0.0,
    files: Files = FILES,
    doing: str = "writing",
    unlock: str | None = None,
) -> Term:
    """Takes and returns the next term in `folder`, which is made if it is missing.

    `attempt` is 0 for a process that is not an attempt. `doing` says what owners of this folder do; `unlock` is the
    command with which a person says that the owner has ended, if it is not that of a run. Raises
    RunFailed("RUN_LOCKED"), naming the last owner, if that is not known to have ended within `patience_s` seconds.
    """
    for made in (folder, folder / "terms"):
        files.make_folder(made)
        files.sync_folder(made.parent)
    patience = Patience(patience_s, ASK_S)
    mine = this_process(attempt)
    draft = folder / "terms" / f".draft.{uuid.uuid4().hex[:8]}"
    try:
        write_file(draft, [memoryview(seal(dataclasses.asdict(mine)))], files)
        while True:
            last = _newest(folder)
            if last and not has_ended(_read(folder, last), mine, job_ended):
                if patience.is_over():
                    unlock = unlock or f"hpctrain checkpoints {folder.parent.name} --unlock"
                    raise _locked(_read(folder, last), mine, doing, unlock)
                time.sleep(1)
                continue
            number = 1 + max(last, _committed(folder))
            if files.link(draft, _path(folder, number)):
                files.sync_folder(folder / "terms")
                return Term(folder, number, mine, files)
    finally:
        with contextlib.suppress(FileNotFoundError):  # the disk was full
            files.remove(draft)


def last_owner(folder: Path) -> Owner | None:
    """Returns the owner of the last term; None if there was none. Raises RunFailed if its record is damaged."""
    number = _newest(folder)
    return _read(folder, number) if number else None


def unlock(folder: Path) -> Owner | None:
    """Ends the last term because a person says that its owner has ended; returns the owner, None if there was none."""
    number = _newest(folder)
    if not number:
        return None
    term = Term(folder, number, _read(folder, number))
    term.release()
    return term.owner


def owners(folder: Path) -> dict[int, Owner]:
    """Returns the owners of all terms below `folder` by number. Raises RunFailed if a record is damaged."""
    return {number: _read(folder, number) for number in _numbers(folder)}


def this_process(attempt: int) -> Owner:
    """Returns this process as an owner."""
    return process(os.getpid(), attempt)


def process(pid: int, attempt: int = 0) -> Owner:
    """Returns a process of this machine, started by this one, as an owner."""
    place = job_environment.read()
    return Owner(
        attempt=attempt,
        host=socket.gethostname(),
        machine=_text("/etc/machine-id"),
        boot=_boot(),
        pid=pid,
        started=_start_time(pid) or "",
        job_id=place.job_id,
        restarts=place.restarts,
        since=time.time(),
    )


def lives(boot: str, pid: int, started: str) -> bool | None:
    """Returns whether a process lives, by what `this_process` noted; None if it is not a process of this machine."""
    return _start_time(pid) == started if boot == _boot() else None


def has_ended(owner: Owner, mine: Owner, job_ended: JobEnded | None) -> bool | None:
    """Returns whether `owner` has ended; None if this process cannot know."""
    if owner.ended:
        return True
    if owner.job_id is not None:
        # Slurm starts a job again only when its last start is over.
        if owner.job_id == mine.job_id and owner.restarts < mine.restarts:
            return True
        if owner.job_id != mine.job_id and job_ended is not None and job_ended(owner.job_id):
            return True
    if owner.boot == mine.boot:
        return _start_time(owner.pid) != owner.started
    same_machine = owner.machine and (owner.host, owner.machine) == (mine.host, mine.machine)
    if same_machine and owner.boot.split()[0] != mine.boot.split()[0]:
        # Images and containers may share name and id, so our kernel must also have started after the owner.
        return True if _boot_time_s() > owner.since else None
    return None  # another machine's processes, or another container's


def _locked(owner: Owner, mine: Owner, doing: str, unlock: str) -> RunFailed:
    job = f", Slurm job {owner.job_id}" if owner.job_id else ""
    process = f"process {owner.pid} on {owner.host}{job}"
    who = f"attempt {owner.attempt} ({process})" if owner.attempt else process
    if owner.boot == mine.boot:
        return RunFailed(Reason.RUN_LOCKED, f"{who} is {doing}")
    return RunFailed(
        Reason.RUN_LOCKED, f"{who} may still be {doing}; if you know that it has ended: {unlock}"
    )


def _boot() -> str:
    """Names this start of the kernel, and the set of processes that this process can see."""
    return f"{_text('/proc/sys/kernel/random/boot_id')} {Path('/proc/self/ns/pid').readlink()}"


def _boot_time_s() -> float:
    """When this kernel started, in seconds since the epoch; infinitely early if it does not say."""
    btime = re.search(r"^btime (\d+)$", _text("/proc/stat"), re.MULTILINE)
    return float(btime[1]) if btime else -math.inf


def _start_time(pid: int) -> str | None:
    """When a process began, in clock ticks after boot; None if it does not exist or has ended."""
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else None


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _path(folder: Path, number: int) -> Path:
    return folder / "terms" / f"{number}.json"


def _numbers(folder: Path) -> list[int]:
    terms = folder / "terms"
    stems = [path.stem for path in terms.glob("*.json")] if terms.is_dir() else []
    return sorted(int(stem) for stem in stems if stem.isdigit())


def _newest(folder: Path) -> int:
    return max(_numbers(folder), default=0)


def _committed(folder: Path) -> int:
    """The highest term that has committed a checkpoint: numbers grow even if the files of the terms were removed."""
    matches = [re.fullmatch(r"step_\d+\.t(\d+)-\d+", path.name) for path in folder.iterdir()]
    return max((int(match[1]) for match in matches if match), default=0)


def _read(folder: Path, number: int) -> Owner:
    path = _path(folder, number)
    try:
        return _OWNER.validate_python(unseal(read_small(path)[0]))
    except (ValueError, ValidationError, Damaged) as error:
        why = error.why if isinstance(error, Damaged) else str(error).splitlines()[0]
        raise RunFailed(
            Reason.STORAGE_ERROR, f"{path} is damaged ({why}); once no attempt of the run lives, remove it"
        ) from None
