"""Finds out why an attempt ended if no rank was left to say so, from what ranks and launcher left behind.

Takes a run directory, the launcher's output (srun's, mpirun's, horovodrun's, the batch shell's; launcher_logs.py) and
its exit code; returns a reason of storage/run_state.py, and writes it. Call it only once the launcher has ended.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from hpctrain import job_environment
from hpctrain.launch import kernel_log, launcher_logs
from hpctrain.scheduler.sbatch import FAILED_MARK
from hpctrain.storage import last_word
from hpctrain.storage.attempts import RUNNING
from hpctrain.storage.full_disk import PATIENCE_S, patiently
from hpctrain.storage.last_word import LastWord
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import ENDINGS, Phase, Reason, RunState, reason_of_oserror

Cause = tuple[str, str, int | None]  # reason, detail, the rank at fault

DETAIL_LENGTH = 500
_MOST_LINES = 3  # of a launcher's words in a detail

# A task that ended badly, as srun, mpirun and horovodrun say it: which ones, and how.
_ENDS = tuple(
    re.compile(pattern, re.M)
    for pattern in (
        r"srun: error: (?:\S+: )?tasks? (?P<tasks>\d[\d,-]*): (?P<how>.+)",
        r"srun: error: task (?P<tasks>\d+) (?P<how>launch failed: .+)",
        r"process rank (?P<tasks>\d+) .*exited on signal \d+ \((?P<how>.+)\)",
        r"Process name: \[.*,(?P<tasks>\d+)\]\s+(?P<how>Exit code: +\d+)",
        r"^Process (?P<tasks>\d+) exit with (?P<how>status code \d+)",
    )
)
_CODE = re.compile(r"\bcode:? +(\d+)$")
_SIGNALS = {signal.strsignal(number): int(number) for number in signal.valid_signals()}
_FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT})
_HINTS: dict[int, str] = {
    signal.SIGKILL: ", from outside or by the kernel",
    signal.SIGTERM: ", from outside",
    signal.SIGILL: ", as of a library that was built for another processor",
    signal.SIGBUS: ", as if /dev/shm is full or a file in use was cut short",
}

_MEMORY = re.compile(
    r"oom.?kill|out of memory|exceeded (?:\w+ )?memory limit|cannot allocate memory|std::bad_alloc", re.I
)
_KERNEL_KILL = re.compile(r"Killed process (\d+)")
_NODE_LOST = re.compile(r".*(?:missing step on node|due to node failure|node failure on ).*", re.I)
# The launcher was ended itself, and took its ranks along: "line 20: 12 Killed   srun --unbuffered ...".
_SRUN_ENDED = re.compile(r"line \d+: +\d+ (\S.*?)(?: \(core dumped\))? {2,}srun ")
_SRUN_ASKED = "srun: forcing job termination"  # by SIGTERM, unlike --kill-on-bad-exit
_BY_SLURM = re.compile(r".*\bCANCELLED AT \S+ DUE TO (TIME LIMIT|PREEMPTION|JOB REQUEUE)\b.*")
_NO_LOG = "Slurmd could not connect IO"  # srun's words if a task's log cannot be opened on its node
_REASONS_OF_SLURM = {
    "TIME LIMIT": Reason.TIME_LIMIT,
    "PREEMPTION": Reason.PREEMPTED,
    "JOB REQUEUE": Reason.TERMINATED,
}

# What native code says before it ends: Python's faulthandler, glibc, C++, UCX, PyTorch.
_LAST_CRY = re.compile(
    r"^(?:Fatal (?:Python|glibc) error: .+|terminate called .+|\*\*\* .+ \*\*\*: terminated"
    r"|.*\bCaught signal \d+ .+|\[\S+\] Signal: .+ \(\d+\)|.*insufficient shared memory.*"
    r"|(?:free|malloc|realloc|munmap_chunk|corrupted|double free)\b.*\(.*)$",
    re.M,
)
_PYTHON_LINE = re.compile(r'^  File "(?:.*/)?(.+?)", line (\d+) in (\S+)$', re.M)

_RANK_SAYS = re.compile(r"\[(?:\d+,)?(\d+)\]<std(?:out|err)>:\s?(.*)")
_BOX = re.compile(r"^-{20,}\n(.*?)\n-{20,}$", re.M | re.S)  # mpirun's messages
_NOISE = re.compile(
    r"^\s|^Traceback|^$|hpctrain: start|Exited with exit code|exit with status code|CANCELLED AT"
    r"|: (?:Killed|Terminated)$|^(?:Killed|Terminated)|^Terminating remaining|exited with non-zero|\d launch failed:"
    r"|a non-zero exit code|^Process name|^Exit code"
    r"|^srun: (?:launch/slurm|Job step aborted|Force Terminated|got SIG|forcing)"
)
_TELLING = re.compile(
    r"error|fatal|no such|not found|denied|cannot|could(?:n't| not)|unable|fail|invalid|read-only|no space|quota"
    r"|unrecognized|unknown option|not enough|not available|refused|timed out",
    re.I,
)


def settle(run: RunDir, launcher_text: str, attempt: int | None, code: int | None = None) -> RunState:
    """Writes into state.json how an attempt ended (None: no rank of the start came up); returns the state.

    Returns the same state if the disk does not take it. `code` is the launcher's exit code.
    """
    start, place = _Start(run, launcher_text, attempt, code), job_environment.read()
    known = start.known()
    reason, detail, rank = known or start.guess()
    # A run that ended because of a full disk has waited for space already.
    patience_s = 0.0 if reason == Reason.DISK_FULL else PATIENCE_S

    def write() -> RunState:
        if ENDINGS[reason].phase is None:  # Slurm ended the job, and may put it back
            return run.state.stopped(reason, place.in_job, detail)
        return run.state.failed(reason, detail, rank, attempt=attempt, job_id=place.job_id)

    try:
        return patiently(write, patience_s)
    except OSError as error:
        storage = reason_of_oserror(error) or (None if run.path.is_dir() else Reason.STORAGE_ERROR)
        if storage is None:
            raise
        if known is None:
            reason, detail = storage, f"nothing can be written: {error}"
        phase = ENDINGS[reason].phase or Phase.FAILED
        return replace(run.read_state(), phase=phase, reason=reason, detail=detail, rank=rank)


def cause(run: RunDir, job_id: str | None) -> Cause | None:
    """Returns why a job ended (None: ranks on this machine): reason, detail and rank, from its newest start's logs.

    Returns None if the logs do not tell.
    """
    said = launcher_logs.text(run, job_id)
    start = _Start(run, said, launcher_logs.attempt(run, said, job_id))
    return start.known() or start.launcher_said()


def explain(run: RunDir, launcher_text: str, attempt: int | None, code: int | None = None) -> Cause:
    """Returns reason, detail and the rank at fault or None: the first that failed, not those that it took along."""
    start = _Start(run, launcher_text, attempt, code)
    return start.known() or start.guess()


@dataclass(frozen=True)
class _End:
    """Tasks that ended in the same way."""

    ranks: tuple[int, ...]
    how: str
    place: int

    @property
    def signal(self) -> int | None:
        """The signal that ended them: named as such, or as a shell's exit code (128 + its number)."""
        said = _SIGNALS.get(self.how.removesuffix(" (core dumped)"))
        number = (self.code or 0) - 128
        return said or (number if number in signal.valid_signals() else None)

    @property
    def code(self) -> int | None:
        """Their exit code."""
        match = _CODE.search(self.how)
        return int(match[1]) if match else None

    @property
    def crashed(self) -> bool:
        """Whether they ended by a signal other than those with which launchers end the remaining tasks."""
        return self.signal is not None and self.signal not in _FROM_OUTSIDE


def _ends(text: str) -> list[_End]:
    """Returns how tasks ended, in the order in which the launcher says so."""
    matches = (match for pattern in _ENDS for match in pattern.finditer(text))
    ends = [_End(_numbers(match["tasks"]), match["how"].strip(), match.start()) for match in matches]
    return sorted(ends, key=lambda end: end.place)


def _numbers(text: str) -> tuple[int, ...]:
    """Returns the numbers of "1-3,7"."""
    pairs = [part.partition("-") for part in text.split(",") if part]
    return tuple(n for first, _, last in pairs for n in range(int(first), int(last or first) + 1))


class _Start:
    """What is left of one start of a run."""

    def __init__(self, run: RunDir, launcher_text: str, attempt: int | None, code: int | None = None) -> None:
        self.run, self.attempt, self.code = run, attempt, code
        self.text = launcher_logs.last_start(launcher_text)
        self.ranks = run.rank_files(self.attempt) if self.attempt else []
        self.silent = [who["rank"] for who in self.ranks if who["outcome"] == RUNNING]
        self.ends = _ends(self.text)

    def known(self) -> Cause | None:
        """Returns what a rank said about the end, or the launcher about a rank's end; None if they said nothing."""
        if self.run.cancel_file.exists():
            return Reason.CANCELLED, "cancelled by the user", None
        first, own = self._first(), self._own_word()
        # A rank that got no answer cannot know why: the launcher does, if the other one was killed.
        if own and (own[0] != Reason.COLLECTIVE_TIMEOUT or not (self.silent or first)):
            return own
        return self._before_srun() or self._memory(first) or self._outside(first) or self._signal(first) or (
            self._exit(first) or own
        )  # fmt: skip

    def guess(self) -> Cause:
        """Returns what to say about an end if nothing is known."""
        if (said := self.launcher_said()) is not None:
            return said
        if self.silent:
            return Reason.RANK_KILLED, f"rank {self.silent[0]} ended without a word", self.silent[0]
        return Reason.LOST, "the process ended without a word, before it had begun", None

    def _own_word(self) -> LastWord | None:
        """What a rank said about the end: in failure.json, in a log if it could not write that, or by its exit code."""
        failure = self.run.failure(self.attempt) if self.attempt else None
        told = failure and LastWord(failure["reason"], failure["detail"], failure["rank"])
        codes = (self.code, *(end.code for end in self.ends))
        storage = next(filter(None, map(last_word.reason_of_exit, codes)), None)
        if told and not storage and (told.reason != Reason.COLLECTIVE_TIMEOUT or not self.silent):
            return told
        logs = self.run.attempt(self.attempt).glob("rank_*.log") if self.attempt else ()
        texts = (launcher_logs.of_this_start(self.text), *(launcher_logs.tail(log) for log in sorted(logs)))
        said = last_word.find("\n".join(texts))
        if storage:
            words = [word for word in (told, said) if word and word.reason == storage]
            return words[0] if words else LastWord(storage, "a rank could not even write why it ended", None)
        return said if said and said.reason != Reason.COLLECTIVE_TIMEOUT else told or said

    def _first(self) -> _End | None:
        """The tasks that ended first, if they did not say why; else the first silent tasks that crashed."""
        spoke = {who["rank"] for who in self.ranks if who["outcome"] != RUNNING}
        mute = [end for end in self.ends if not spoke.issuperset(end.ranks)]
        if mute and mute[0] is self.ends[0]:
            return mute[0]
        return next((end for end in mute if end.crashed), None)

    def _before_srun(self) -> Cause | None:
        """A command of the batch shell failed: no rank was started."""
        before, mark, after = self.text.partition(FAILED_MARK)
        if not mark:
            return None
        said = words(before) or _last(before)
        what = f"{after.splitlines()[0].strip()} failed: the ranks were not started"
        return _reason(said), _cut(f"{what}: {said}" if said else what), None

    def _memory(self, first: _End | None) -> Cause | None:
        """The kernel or Slurm ended a rank for its memory."""
        lines = [line for line in self.text.splitlines() if _MEMORY.search(line)]
        if lines:
            detail = f"the kernel or Slurm ended a rank for its memory: {_without_rank(lines[0])[1].strip()}"
            return Reason.OUT_OF_MEMORY, _cut(detail), self._rank_of_memory(lines)
        if first.signal == signal.SIGKILL if first else self.silent:
            rank = kernel_log.killed_for_memory(kernel_log.read(), self.ranks)
            if rank is not None:
                return Reason.OUT_OF_MEMORY, f"the kernel ended rank {rank} for its memory (dmesg)", rank
        return None

    def _rank_of_memory(self, lines: Sequence[str]) -> int | None:
        """The rank that lines about memory mean, by its process, its name or its log; else the first one killed."""
        ranks = {who.get("pid"): int(who["rank"]) for who in self.ranks}
        by_process = [ranks.get(int(pid)) for line in lines for pid in _KERNEL_KILL.findall(line)]
        by_name = [end.ranks[0] for line in lines for end in _ends(line)]
        by_log = [_without_rank(line)[0] for line in lines]
        killed = [self._mute(end) for end in self.ends if end.signal == signal.SIGKILL]
        candidates = (*by_process, *by_name, *by_log, *killed, *self.silent)
        return next((rank for rank in candidates if rank is not None), None)

    def _outside(self, first: _End | None) -> Cause | None:
        """A node was lost, Slurm ended the job, or srun was ended."""
        if lost := _NODE_LOST.search(self.text):
            return Reason.NODE_FAILURE, _cut(lost[0].strip()), None
        if slurm := _BY_SLURM.search(self.text):
            return _REASONS_OF_SLURM[slurm[1]], _cut(_without_rank(slurm[0])[1].strip()), None
        asked = self.text.find(_SRUN_ASKED)
        if asked >= 0 and not (first and first.place < asked):
            return Reason.TERMINATED, "srun was ended by SIGTERM, and its ranks with it", None
        if (ended := _SRUN_ENDED.search(self.text)) and not first:
            return Reason.RANK_KILLED, f"srun: {_named(ended[1])}, and its ranks with it", None
        return None

    def _signal(self, first: _End | None) -> Cause | None:
        """A signal ended a rank: the launcher says which, or the rank's own log does."""
        if first and first.signal:
            rank = self._mute(first)
            cry = self._last_cry(rank)
            reason = Reason.OUT_OF_MEMORY if _MEMORY.search(cry) else Reason.RANK_KILLED
            detail = f"rank {rank}: {_named(first.signal)}{_HINTS.get(first.signal, '')}"
            return reason, _cut(f"{detail}; {cry}" if cry else detail), rank
        for rank in () if first else self.silent:
            if cry := self._last_cry(rank):
                reason = Reason.OUT_OF_MEMORY if _MEMORY.search(cry) else Reason.RANK_KILLED
                return reason, _cut(f"rank {rank}: {cry}"), rank
        return None

    def _exit(self, first: _End | None) -> Cause | None:
        """A rank ended with an exit code before it could say why, or could not be started."""
        if first is None:
            return None
        rank = self._mute(first)
        said = words(self.text, rank) or (
            "is the folder of the logs there, and writable?" if _NO_LOG in first.how else ""
        )
        up = any(who["rank"] == rank for who in self.ranks)
        detail = f"rank {rank}{' ended' if up else ' did not start'}: {first.how[0].lower()}{first.how[1:]}"
        return _reason(said), _cut(f"{detail}: {said}" if said else f"{detail}, and it did not say why"), rank

    def launcher_said(self) -> Cause | None:
        """Returns what the launcher or the shell said without naming a rank; None if they said nothing."""
        said = words(self.text) or ("" if self.ranks else _last(self.text))
        if said and self.silent:
            return (
                Reason.RANK_KILLED,
                _cut(f"rank {self.silent[0]} ended without a word: {said}"),
                self.silent[0],
            )
        return (
            (_reason(said), _cut(f"the ranks did not start: {said}"), None)
            if said and not self.ranks
            else None
        )

    def _mute(self, end: _End) -> int:
        """The first of these tasks that did not say why it ended."""
        spoke = {who["rank"] for who in self.ranks if who["outcome"] != RUNNING}
        return next((rank for rank in end.ranks if rank not in spoke), end.ranks[0])

    def _last_cry(self, rank: int) -> str:
        """What native code wrote into the rank's log as it ended; "" if it wrote nothing."""
        log = launcher_logs.tail(self.run.rank_log(self.attempt, rank)) if self.attempt else ""
        cries = list(_LAST_CRY.finditer(log))
        if not cries:
            return ""
        line = _PYTHON_LINE.search(log, cries[-1].end())
        where = f" ({line[1]}, line {line[2]} in {line[3]})" if line else ""
        return "; ".join(match[0].strip() for match in cries[-2:]) + where


def words(text: str, rank: int | None = None) -> str:
    """Returns the lines of a launcher's log that say what went wrong, those of `rank` first; "" if none does."""
    lines = [_without_rank(line) for line in text.splitlines()]
    own = [line for r, line in lines if r == rank] if rank else []
    for said in (own, [line for r, line in lines if rank is None or r is None]):
        whole = _BOX.sub(_unboxed, "\n".join(said)).splitlines()
        telling = [line.strip() for line in whole if _TELLING.search(line) and not _NOISE.search(line)]
        if telling:
            return "; ".join(_unique(telling)[:_MOST_LINES])
    return ""


def _unboxed(box: re.Match[str]) -> str:
    """A boxed message of mpirun, as one line."""
    return " ".join(box[1].split())


def _without_rank(line: str) -> tuple[int | None, str]:
    """Returns the rank that wrote a line (None: the launcher itself), and the line."""
    match = _RANK_SAYS.match(line)
    return (int(match[1]), match[2]) if match else (None, line)


def _last(text: str) -> str:
    """The last lines, without those that announce the start."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join([line for line in lines if not line.startswith("hpctrain: start")][-_MOST_LINES:])


def _unique(lines: Iterable[str]) -> Sequence[str]:
    return list(dict.fromkeys(lines))


def _named(what: int | str) -> str:
    """A signal with both of its names: Illegal instruction (SIGILL). Most real-time signals have numbers only."""
    number = _SIGNALS.get(what) if isinstance(what, str) else what
    if number is None:
        return str(what)
    named = number in set(signal.Signals)
    name = signal.Signals(number).name if named else f"SIGRTMIN+{number - signal.SIGRTMIN}"
    return f"{signal.strsignal(number)} ({name})"


def _reason(said: str) -> str:
    """The reason that the words of a launcher mean."""
    if "ModuleNotFoundError" in said or "ImportError" in said:
        return Reason.IMPORT_ERROR
    numbers = ((reason, number) for reason, ending in ENDINGS.items() for number in ending.errnos)
    return next((reason for reason, number in numbers if os.strerror(number) in said), Reason.ERROR)


def _cut(detail: str) -> str:
    return detail[:DETAIL_LENGTH]
