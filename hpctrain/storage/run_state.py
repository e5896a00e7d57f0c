"""How a run stands and how it ends: phases, reasons, state.json and submission.json. Only this file writes these two.

Phases and reasons are closed sets; a transition that names another is a bug and raises ValueError. Both files are
JSON objects that are replaced atomically; keys that this version does not know are kept. No torch.
"""

from __future__ import annotations

import errno
import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from hpctrain.errors import Damaged, Foreign, RunFailed
from hpctrain.shown import without_secrets
from hpctrain.storage.json_files import Count, Number, ProcessId, parse, read_own, read_small, replace_text


class Phase(StrEnum):
    """The stage of a run."""

    NEW = "new"  # it has a folder, and was never started
    SUBMITTED = "submitted"
    STARTING = "starting"
    RUNNING = "running"
    REQUEUED = "requeued"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def final(self) -> bool:
        """Whether the run has ended: in this phase nothing changes by itself."""
        return self in FINAL


PHASES = tuple(phase for phase in Phase if phase != Phase.NEW)
FINAL = frozenset({Phase.DONE, Phase.FAILED, Phase.CANCELLED, Phase.INTERRUPTED})


class Reason(StrEnum):
    """Why a run ended or an attempt stopped."""

    DONE = "DONE"
    CANCELLED = "CANCELLED"
    INTERRUPTED = "INTERRUPTED"
    PREEMPTED = "PREEMPTED"
    TERMINATED = "TERMINATED"
    TIME_LIMIT = "TIME_LIMIT"
    PAUSED = "PAUSED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    NAN_PERSISTENT = "NAN_PERSISTENT"
    LATE_GRADIENT = "LATE_GRADIENT"
    COUNT_DIFFERS = "COUNT_DIFFERS"
    DATA_ERROR = "DATA_ERROR"
    IMPORT_ERROR = "IMPORT_ERROR"
    COLLECTIVE_TIMEOUT = "COLLECTIVE_TIMEOUT"
    NODE_FAILURE = "NODE_FAILURE"
    RANK_KILLED = "RANK_KILLED"
    DISK_FULL = "DISK_FULL"
    STORAGE_ERROR = "STORAGE_ERROR"
    NO_VALID_CHECKPOINT = "NO_VALID_CHECKPOINT"
    CONFIG_CHANGED = "CONFIG_CHANGED"
    RUN_LOCKED = "RUN_LOCKED"
    NO_PROGRESS = "NO_PROGRESS"
    SUBMIT_FAILED = "SUBMIT_FAILED"
    LOST = "LOST"
    ERROR = "ERROR"


@dataclass(frozen=True)
class Ending:
    """What a reason means.

    `phase` is the run's phase afterwards; None: `requeued` in a Slurm job, which may come back, else `interrupted`.
    `passing`: the reason is not the run's fault, so a study tries again. `signals` ask a rank to stop for this reason;
    hpctrain sends the first one. `slurm_states` are Slurm's names for it; `errnos` are those of an OSError. `exit_code`
    is that of a rank, and of its job, that ended for it: a reason that could not be written down has its own. srun
    returns the highest code of its tasks, and tasks that it kills have 137 or 143.
    """

    text: str
    phase: Phase | None = Phase.FAILED
    passing: bool = False
    signals: tuple[signal.Signals, ...] = ()
    slurm_states: tuple[str, ...] = ()
    errnos: tuple[int, ...] = ()
    exit_code: int = 1


ENDINGS: dict[str, Ending] = {
    Reason.DONE: Ending("the run reached its last step", Phase.DONE, slurm_states=("COMPLETED",)),
    Reason.CANCELLED: Ending("cancelled by the user", Phase.CANCELLED, slurm_states=("CANCELLED", "REVOKED")),
    Reason.INTERRUPTED: Ending(
        "stopped by Ctrl-C or a signal; a checkpoint was saved", Phase.INTERRUPTED, signals=(signal.SIGINT,)
    ),
    # Slurm sends them ahead of the time limit (sbatch --signal), and before a preemption if the site is set up so.
    Reason.PREEMPTED: Ending(
        "the scheduler took the nodes; a checkpoint was saved", None,
        signals=(signal.SIGUSR2, signal.SIGUSR1), slurm_states=("PREEMPTED",),
    ),
    # Slurm's preemption, scancel and a node's shutdown all begin with it; only Slurm knows which one it is.
    Reason.TERMINATED: Ending(
        "ended by SIGTERM (preemption or scancel); a checkpoint was saved", None, signals=(signal.SIGTERM,)
    ),
    Reason.TIME_LIMIT: Ending(
        "the job's time limit came; a checkpoint was saved", None, slurm_states=("TIMEOUT", "DEADLINE")
    ),
    Reason.PAUSED: Ending("stopped at a rung of its sweep; a checkpoint was saved", Phase.INTERRUPTED),
    Reason.OUT_OF_MEMORY: Ending("a rank ran out of memory", slurm_states=("OUT_OF_MEMORY",)),
    Reason.NAN_PERSISTENT: Ending("loss or gradient was not finite"),
    Reason.LATE_GRADIENT: Ending("a gradient came after its sum over ranks had begun"),
    Reason.COUNT_DIFFERS: Ending("two counts of the operations disagree"),
    Reason.DATA_ERROR: Ending("the data could not be read"),
    Reason.IMPORT_ERROR: Ending("a package could not be imported"),
    Reason.COLLECTIVE_TIMEOUT: Ending("a rank did not answer the others in time", passing=True),
    Reason.NODE_FAILURE: Ending("a node was lost", passing=True, slurm_states=("NODE_FAIL", "BOOT_FAIL")),
    Reason.RANK_KILLED: Ending("a rank was killed by a signal", passing=True),
    Reason.DISK_FULL: Ending(
        "no space left for the run directory", errnos=(errno.ENOSPC, errno.EDQUOT), exit_code=200 + errno.ENOSPC
    ),
    Reason.STORAGE_ERROR: Ending(
        "the run directory could not be written", passing=True, errnos=(errno.EIO, errno.EROFS, errno.ESTALE),
        exit_code=200 + errno.EIO,
    ),
    Reason.NO_VALID_CHECKPOINT: Ending("checkpoints exist but none verifies"),
    Reason.CONFIG_CHANGED: Ending("the settings that make the science are not the checkpoint's"),
    Reason.RUN_LOCKED: Ending("another process owns the run"),
    Reason.NO_PROGRESS: Ending("three attempts in a row made no step"),
    Reason.SUBMIT_FAILED: Ending("the scheduler refused the job"),
    Reason.LOST: Ending("the process ended without a word", passing=True),
    Reason.ERROR: Ending("an error in the program; see the rank's log", slurm_states=("FAILED",)),
}  # fmt: skip


STORAGE = frozenset(reason for reason, ending in ENDINGS.items() if ending.errnos)


def passing() -> frozenset[str]:
    """Returns the reasons that are not the run's fault, after which a study tries again."""
    return frozenset(reason for reason, ending in ENDINGS.items() if ending.passing)


def reason_of_slurm(state: str) -> str | None:
    """Returns the reason why a job in Slurm's `state` ended; None if the state is not a known end."""
    return next((r for r, ending in ENDINGS.items() if state in ending.slurm_states), None)


def reasons_of_signals() -> dict[signal.Signals, str]:
    """Returns the reason to stop for each signal, for handlers."""
    return {number: reason for reason, ending in ENDINGS.items() for number in ending.signals}


def signal_for(reason: str) -> signal.Signals:
    """Returns the signal that asks a rank to save and stop for `reason`; that of PREEMPTED for reasons without one."""
    signals = ENDINGS[reason].signals or ENDINGS[Reason.PREEMPTED].signals
    return signals[0]


def reason_of_oserror(error: OSError) -> str | None:
    """Returns DISK_FULL or STORAGE_ERROR if the error is about storage, else None."""
    return next((r for r, ending in ENDINGS.items() if error.errno in ending.errnos), None)


def says_out_of_memory(text: str) -> bool:
    """Returns whether an error's text says that an allocation failed, on a GPU or in the host's memory."""
    return any(words in text.lower() for words in ("out of memory", "can't allocate memory"))


def storage_failure(error: OSError, what: str) -> RunFailed:
    """Returns the failure of a run that could not write `what`: DISK_FULL if the disk is full, else STORAGE_ERROR."""
    reason = reason_of_oserror(error) or Reason.STORAGE_ERROR
    return RunFailed(reason, f"{what}: {error}")


def phase_after(reason: str, in_slurm: bool) -> Phase:
    """Returns the phase of a run that ended for `reason`. In a Slurm job, a run that was warned may come back."""
    phase = ENDINGS[reason].phase
    if phase is not None:
        return phase
    return Phase.REQUEUED if in_slurm else Phase.INTERRUPTED


# A job's id for Slurm's commands, never something that they would take for an option. Version 0.1.0 wrote numbers.
JobId = Annotated[
    str,
    BeforeValidator(lambda given: str(given) if type(given) is int else given),
    Field(pattern=r"^[0-9]+(_[0-9]+)?$"),
]


@dataclass(frozen=True)
class RunState:
    """state.json. Times are seconds since the epoch; an unknown value is None.

    `starts`: the steps at which the last starts in a row began, none of which made a step. `figures`: the newest
    record's figures; `summary`: those of the whole run, at its end. `checkpoint`: the newest step that was saved.
    `rank`: the one at fault. `damage` is never in the file: it says why the file could not be read, if the other values
    come from the run's other files (storage/rebuild.py).
    """

    phase: Phase = Phase.NEW
    reason: str | None = None
    detail: str | None = None
    rank: Count | None = None
    attempt: Count | None = None
    ranks: Count | None = None
    host: str | None = None
    pid: ProcessId | None = None
    job_id: JobId | None = None
    started: Number | None = None
    step: Count | None = None
    total_steps: Count | None = None
    epoch: Number | None = None
    epoch_steps: Count | None = None
    figures: Mapping[str, Any] | None = None
    summary: Mapping[str, Any] | None = None
    checkpoint: int | None = None
    starts: Sequence[Any] | None = None
    heartbeat: Number | None = None
    damage: str | None = None

    @property
    def final(self) -> bool:
        """Whether the run has ended and nothing goes on by itself."""
        return self.phase in FINAL


CLOCK_ERROR_S = 5.0  # synchronised clocks differ by less


class StateFile:
    """state.json of one run. One writer at a time: rank 0, or the launcher while no rank runs.

    `stands` tells whether this process's right to write is still the newest (storage/lock.py): an attempt whose run
    another has taken over must not end a run that goes on elsewhere. Such a writer remembers all values that it has
    written, or tried to: its next write contains them, and so undoes what an earlier attempt wrote in between.
    `rebuild` returns the state by the run's other files if this one is missing (its argument is None) or damaged (why);
    the next write keeps those values.
    """

    def __init__(
        self,
        path: Path | str,
        stands: Callable[[], bool] | None = None,
        rebuild: Callable[[str | None], RunState] = lambda why: RunState(damage=why),
    ) -> None:
        self._path = str(path)  # of ten thousand runs, each is read once: a text is quicker than a Path
        self._stands, self._rebuild = stands, rebuild
        self._said: dict[str, Any] | None = None

    def held_by(self, stands: Callable[[], bool]) -> StateFile:
        """Returns this file for a process that has the right to write as long as `stands()`."""
        return StateFile(self._path, stands, self._rebuild)

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self._path)

    def read(self) -> RunState:
        """Returns the state; of a run that was never started, one in phase NEW."""
        return self._look()[0]

    def read_with_age(self, now_s: float) -> tuple[RunState, float | None]:
        """Returns the state, and the seconds since it was written; `now_s` is on the files' clock (`clock_of`).

        The age is None if there was no heartbeat, or if the clocks differ so much that it lies in the future.
        """
        state, written_s, _ = self._look()
        if state.heartbeat is None or written_s is None or written_s - now_s > CLOCK_ERROR_S:
            return state, None
        return state, max(0.0, now_s - written_s)

    def submitted(self, first: bool = False) -> None:
        """Writes that a job is queued for the run. `first`: the count of starts without progress begins at 0."""
        self._write(
            phase=Phase.SUBMITTED, reason=None, detail=None, rank=None, **({"starts": []} if first else {})
        )

    def starting(self, *, first: bool = False, **where: Any) -> None:
        """Writes that ranks are being started, and `where` (host, pid, job_id, attempt, ranks, started)."""
        self._write(
            phase=Phase.STARTING,
            reason=None,
            detail=None,
            rank=None,
            **where,
            **({"starts": []} if first else {}),
        )

    def beat(self, **progress: Any) -> None:
        """Writes that rank 0 lives, and `progress`: values that changed (phase, step, epoch, figures, summary, ...)."""
        self._write(**progress)

    def started_at(self, starts: Sequence[Any]) -> None:
        """Writes at which steps the last starts began, none of which has made a step so far."""
        self._write(starts=list(starts))

    def stopped(self, reason: str, in_slurm: bool, detail: str | None = None) -> RunState:
        """Writes that all ranks stopped in good order; returns the new state."""
        return self._write(phase=phase_after(reason, in_slurm), reason=reason, detail=detail)

    def failed(
        self,
        reason: str,
        detail: str,
        rank: int | None = None,
        host: str | None = None,
        attempt: int | None = None,
        job_id: str | None = None,
    ) -> RunState:
        """Writes that the work failed, by the fault of `rank`, in the phase of `reason`; returns the new state."""
        phase = ENDINGS[reason].phase or Phase.FAILED
        where = {"host": host, "attempt": attempt, "job_id": job_id}
        known = {key: value for key, value in where.items() if value is not None}
        return self._write(phase=phase, reason=reason, detail=detail, rank=rank, **known)

    def cancelled(self, detail: str) -> None:
        """Writes that the run was cancelled while no rank ran."""
        self._write(phase=Phase.CANCELLED, reason=Reason.CANCELLED, detail=detail)

    def reason_is(self, reason: str) -> None:
        """Writes a better-known reason why the run stopped; the phase stays."""
        self._write(reason=reason)

    def interrupted(self, detail: str) -> None:
        """Writes that nothing will start the run again; the reason stays."""
        self._write(phase=Phase.INTERRUPTED, detail=detail)

    def not_submitted(self, before: RunState, reason: str, detail: str) -> None:
        """Writes why a submission failed, and the phase from before it."""
        phase = Phase.FAILED if before.phase == Phase.NEW else before.phase
        self._write(phase=phase, reason=reason, detail=detail)

    def ended(self, phase: Phase, reason: str | None, detail: str | None) -> None:
        """Writes an end of which only the scheduler knew."""
        self._write(phase=phase, reason=reason, detail=detail)

    def _look(self) -> tuple[RunState, float | None, bytes | None]:
        """The state, when it was written, and the file's content, which is None if the state was rebuilt."""
        try:
            content, written_s = read_small(self._path)
            state = parse(self._path, content, RunState)
            if state.damage is not None:  # no writer puts it there
                state = replace(state, damage=None)
            return state, written_s, content
        except FileNotFoundError:
            state = self._rebuild(None)
        except Damaged as error:
            state = self._rebuild(error.why)
        return state, state.heartbeat, None

    def _kept(self) -> dict[str, Any]:
        """The earlier values, which a writer keeps: the whole file, or what was rebuilt of a lost one."""
        state, _, content = self._look()
        if content is not None:
            known: dict[str, Any] = json.loads(content)
            return known
        if state.damage is None:  # it was never started
            return {}
        return {key: value for key, value in asdict(state).items() if value is not None and key != "damage"}

    def _write(self, **changes: Any) -> RunState:
        before = self._kept() if self._said is None else self._said
        if changes.get("detail"):
            changes["detail"] = without_secrets(changes["detail"])
        values = before | changes | {"heartbeat": time.time()}
        if "phase" in changes:
            Phase(changes["phase"])
        if changes.get("reason") is not None and changes["reason"] not in ENDINGS:
            raise ValueError(f"{changes['reason']} is not a reason")
        if self._stands is not None:
            if not self._stands():
                raise RunFailed(Reason.RUN_LOCKED, "a later attempt has taken this run over")
            self._said = values
        replace_text(self.path, json.dumps(values))
        return self.read()


@dataclass(frozen=True)
class Submission:
    """submission.json: the jobs of a run, the newest last.

    `token` is in the comment of the newest submission's jobs, which are the last `newest` of `job_ids`. `open`: sbatch
    may have made a job whose id is not noted yet. `known_as`: the comment and name that Slurm has for each job; a job
    with another comment or name merely has the same number. `path`: the run's folder, as its jobs know it. `study`: the
    jobs are a study's, which have other runs to do as well. `over`: a person says that none of the jobs lives.

    Two values are never in the file. `damage` says why the file could not be read, if the other values come from the
    run's other files; then there may be more jobs. `foreign` says who else could have written the file; then all other
    values are the defaults.
    """

    cluster: str = "local"
    token: str = ""
    job_ids: tuple[JobId, ...] = ()
    newest: Count = 1
    open: bool = False
    slurm_conf: str | None = None
    study: bool = False
    time: Number = 0.0
    known_as: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    path: str | None = None
    over: bool = False
    damage: str | None = None
    foreign: str | None = None

    @property
    def in_slurm(self) -> bool:
        """Whether Slurm knows jobs of the run, or may."""
        return self.cluster != "local" and (bool(self.job_ids) or self.open) and not self.over

    def without_jobs(self) -> Submission:
        """Returns the submission of a run that goes on outside of jobs."""
        return replace(self, cluster="local", newest=0, open=False, study=False, over=False)

    def with_jobs(self, job_ids: Sequence[str], comment: str = "", name: str = "") -> Submission:
        """Returns the closed submission with these jobs as its newest; Slurm has `comment` and `name` for them."""
        earlier = tuple(job_id for job_id in self.job_ids if job_id not in job_ids)
        known_as = dict(self.known_as) | {job_id: (comment, name) for job_id in job_ids if comment or name}
        return replace(
            self, job_ids=(*earlier, *job_ids), newest=len(job_ids), open=False, known_as=known_as, over=False
        )

    def has_passed(self, job_id: str) -> bool:
        """Returns whether a submission of the run later than that of job `job_id` was made, or is being made."""
        newest = self.job_ids[len(self.job_ids) - self.newest :]
        return job_id in self.job_ids and ((self.open and not self.damage) or job_id not in newest)


class SubmissionFile:
    """submission.json of one run. The process that has the right to start the run writes it (launch/start.py)."""

    def __init__(
        self, path: Path, rebuild: Callable[[str | None], Submission] = lambda why: Submission(damage=why)
    ) -> None:
        """`rebuild` returns what the run's other files say if this one is missing (None) or damaged (why)."""
        self.path, self._rebuild = path, rebuild

    def read(self) -> Submission:
        """Returns the submission; of a run that was never a job, one without jobs."""
        try:
            said = parse(self.path, read_own(self.path)[0], Submission)
            return replace(said, damage=None, foreign=None)
        except FileNotFoundError:
            return self._rebuild(None)
        except Foreign as error:
            return Submission(foreign=error.why)
        except Damaged as error:
            return self._rebuild(error.why)

    def write(self, submission: Submission) -> None:
        """Replaces the file."""
        values = asdict(replace(submission, time=time.time()))
        del values["damage"], values["foreign"]
        replace_text(self.path, json.dumps(values | {"job_ids": list(submission.job_ids)}))
