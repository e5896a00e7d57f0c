"""Shows a run from outside: its log as lines, or a progress bar on a terminal, and the summary at its end.

Takes a run directory to which other processes write, and streams to show it on. Reads files only, so it works on any
node that sees the run directory. Imports no torch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from hpctrain.errors import Damaged, UserError
from hpctrain.launch import launcher_logs
from hpctrain.shown import printable
from hpctrain.storage.files import open_regular
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Phase, RunState
from hpctrain.training.reporter import shown

POLL_S = 0.15
SLOW = 0.05  # the summary warns if ranks wait for pictures for more than this share of the training time
MOST_BYTES = 2**30  # a log may grow by this much between two reads


class LogReader:
    """Reads one rank's log, attempt after attempt, from where the last read ended."""

    def __init__(self, run: RunDir, rank: int, first_attempt: int = 1) -> None:
        self._run, self._rank = run, rank
        self._attempt, self._offset = first_attempt, 0

    def read(self) -> str:
        """Returns all complete lines written since the last call. Raises Damaged if these are too many."""
        text = self._new_text()
        last = max(self._run.attempts(), default=self._attempt)
        while self._attempt < last:
            self._attempt, self._offset = self._attempt + 1, 0
            text += self._new_text()
        return text

    def _new_text(self) -> str:
        path = self._run.rank_log(self._attempt, self._rank)
        try:
            with os.fdopen(open_regular(path), "rb") as file:
                if file.seek(0, os.SEEK_END) - self._offset > MOST_BYTES:
                    raise Damaged(path, f"larger than {MOST_BYTES // 2**20} MiB")
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return ""
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.decode(errors="replace")


def follow(
    run: RunDir,
    ended: Callable[[], bool],
    out: IO[str],
    *,
    rank: int = 0,
    first_attempt: int = 1,
    bar: bool | None = None,
) -> None:
    """Shows a run on `out` until `ended()`; with a progress bar if `out` is a terminal."""
    reader = LogReader(run, rank, first_attempt)
    if bar is None:
        bar = out.isatty()
    if bar:
        return _follow_with_bar(run, ended, reader, out)
    while True:
        last = ended()
        out.write(printable(reader.read()))
        out.flush()
        if last:
            return None
        time.sleep(POLL_S)


def _follow_with_bar(run: RunDir, ended: Callable[[], bool], reader: LogReader, out: IO[str]) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(file=out)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=5) as progress:
        task = progress.add_task("starting", total=None, figures="")
        while True:
            last = ended()
            for line in reader.read().splitlines():
                if not line.startswith("step "):  # the bar says it
                    console.print(printable(line), highlight=False, markup=False)
            state = run.read_state()
            if state.total_steps and state.step is not None:
                name = f"epoch {state.epoch or 0:.1f}"
                progress.update(
                    task, description=name, completed=state.step, total=state.total_steps,
                    figures=shown(state.figures or {}),
                )  # fmt: skip
            if last:
                return
            time.sleep(POLL_S)


def show_end(run: RunDir, state: RunState, out: IO[str], err: IO[str]) -> int:
    """Writes the run's summary to `out` if it has one, and to `err` how it failed or stopped; returns the exit code."""
    phase, reason = state.phase, state.reason
    if state.summary:
        out.write(summary_text(run, state) + "\n")
    if phase == Phase.DONE:
        return 0
    if phase == Phase.FAILED:
        where = f" on rank {state.rank}" if state.rank is not None else ""
        err.write(printable(f"hpctrain: {run.run_id} failed{where}: {reason}: {state.detail}\n"))
        log, text = end_log(run, state)
        err.writelines(printable(f"  | {line}\n") for line in _last_lines(text))
        if log:
            err.write(f"hpctrain: its log: {log}\n")
        return 1
    err.write(f"hpctrain: {run.run_id}: {phase} ({reason}); hpctrain resume {run.run_id} goes on\n")
    return 130 if phase in (Phase.INTERRUPTED, Phase.CANCELLED) else 0


def last_words(run: RunDir, state: RunState) -> list[str]:
    """Returns the last lines of the log that tells how the run ended."""
    return _last_lines(end_log(run, state)[1])


def end_log(run: RunDir, state: RunState) -> tuple[Path | None, str]:
    """Returns the log that tells how the run ended, and its text; (None, "") if there is no log.

    It is the log of the rank at fault (of rank 0 if none is named), or the launcher's if no rank knew why.
    """
    number, start = _newest_start(run, state)
    by_launcher = number is None or (state.rank is None and not _by_rank(run, state, number))
    if start and by_launcher and launcher_logs.said_something(start[1]):
        return start
    log = run.rank_log(number, state.rank or 0) if number else None
    if log and log.is_file():
        return log, launcher_logs.tail(log)
    return start or (None, "")


def refuse_rank(run: RunDir, rank: int) -> None:
    """Raises UserError for a rank that the run does not have, and did not have in an earlier attempt."""
    ranks = run.read_state().ranks
    if ranks and rank >= ranks and not any(run.rank_log(n, rank).is_file() for n in run.attempts()):
        raise UserError(
            "--rank", rank, f"must be ≤ {ranks - 1}: {run.run_id} has {ranks} rank{'s'[: ranks - 1]}"
        )


def start_log(run: RunDir, state: RunState, rank: int) -> tuple[Path, str] | None:
    """Returns the launcher's log and the text of its newest start, if that tells what the log of `rank` does not.

    That is so if the rank did not come up, or if no rank said how the run ended; else returns None.
    """
    number, start = _newest_start(run, state)
    if number is None or not run.rank_log(number, rank).is_file():
        return start
    failed = state.phase == Phase.FAILED and not _by_rank(run, state, number)
    return start if failed and start and launcher_logs.said_something(start[1]) else None


def _newest_start(run: RunDir, state: RunState) -> tuple[int | None, tuple[Path, str] | None]:
    """The attempt of the newest start (None if no rank of it came up), and the launcher's log with its text."""
    start = launcher_logs.newest(run)
    return (launcher_logs.attempt(run, start[1]) if start else state.attempt), start


def _by_rank(run: RunDir, state: RunState, number: int) -> bool:
    """Returns whether a rank of the attempt itself said that the run ended in this way."""
    failure = run.failure(number)
    return failure is not None and (failure["reason"], failure["detail"]) == (state.reason, state.detail)


def _last_lines(text: str, count: int = 8) -> list[str]:
    return [line for line in text.splitlines() if line.strip()][-count:]


def summary_text(run: RunDir, state: RunState) -> str:
    """Returns the figures of a finished run, one per line, with units."""
    s = state.summary or {}
    rows = [("run", run.run_id)]
    if s.get("validation"):
        rows.append(("validation", "  ".join(f"{k} {v:.4f}" for k, v in s["validation"].items())))
    rows += [
        ("training time", f"{s['train_s']:.1f} s ({s['elapsed_s']:.1f} s with validation and checkpoints)"),
        ("throughput", f"{s['samples_per_s'] or 0:,.0f} samples/s; ranks: {state.ranks or 1}"),
        ("FLOPs per step", _flops_per_step(s["flops_per_step"])),
        *([("achieved", _achieved(s))] if s["flops_total"] is not None else []),
        *([("shares", _shares(s))] if s.get("mfu") is not None else []),
        *([("input", slow)] if (slow := slow_input(s.get("input"))) else []),
        ("directory", str(run.path)),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:{width}}  {text}" for name, text in rows)


def _flops_per_step(parts: dict[str, float] | None) -> str:
    return "unknown" if parts is None else "  ".join(f"{name} {value:.4g}" for name, value in parts.items())


def _achieved(summary: Mapping[str, Any]) -> str:
    return f"{summary['gflop_per_s'] or 0:.2f} GFLOP/s; {summary['flops_total']:.4g} FLOPs in all"


def slow_input(waiting: dict[str, Any] | None) -> str | None:
    """Returns a warning about a loader that cannot keep up (training/read_ahead.py); None if it can."""
    if waiting is None or waiting["waited_share"] <= SLOW:
        return None
    share = f"{waiting['waited_share']:.0%}"
    return (
        f"the loader cannot keep up: rank {waiting['rank']} waited {share} of the training time for "
        f"pictures, which {waiting['workers']} processes decode (data.workers; hpctrain data pack --resize)"
    )


def _shares(s: Mapping[str, Any]) -> str:
    peak = s["device_peak"]
    products = f" in {peak['format']}" if "format" in peak else ""
    return (
        f"{s['mfu']:.1%} of peak{products} (MFU), {s['roofline_share']:.1%} of the roofline; {peak['device']}"
    )
