"""What several commands print: a line on stderr, a run's end, a progress bar."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hpctrain.shown import shown
from hpctrain.storage import ownership
from hpctrain.storage.folders import absolute
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import RunState

if TYPE_CHECKING:
    from rich.console import Console

    from hpctrain.config.settings import Config


def say(text: str) -> None:
    """Print one line about the work on stderr: stdout is for the answer."""
    print(f"hpctrain: {shown(text)}", file=sys.stderr, flush=True)


def warn_of_others(config: Config) -> None:
    """Print a line if a group may rename the studies in run.root."""
    root = absolute(config.run.root)
    if why := ownership.shared(root):
        say(f"run.root={root}: {why}")


def show_end(run: RunDir, state: RunState | None = None) -> int:
    """Print how the run ended; returns the exit code. `state` is that of one start, if state.json may differ."""
    from hpctrain.launch import follow

    return follow.show_end(run, state or run.read_state(), sys.stdout, sys.stderr)


def show_done(run: RunDir) -> int:
    """Print that the run is done already, and its figures; returns the exit code."""
    say(f"{run.run_id} is done already; another seed or run.name makes a new run")
    return show_end(run)


def console(width: int | None = None) -> Console:
    """Returns what draws tables on stdout; a file or pipe is `width` wide (None: as the terminal).

    Texts are data: square brackets in them are not markup. A reader that has gone is a BrokenPipeError.
    """
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    made = Plain(markup=False)
    return made if made.is_terminal or width is None else Plain(markup=False, width=width)


def terminal_width() -> int:
    """Returns the letters of a line of the terminal (COLUMNS, if set); a file or pipe takes lines of any length."""
    return shutil.get_terminal_size((sys.maxsize, 24)).columns


def wide_console() -> Console:
    """A terminal as wide as it is; a file or pipe wide enough for tables of figures."""
    return console(140)


@contextmanager
def bar(text: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr if that is a terminal; yields what to call with the bytes done since the last call."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(text, total=total)
        yield lambda count: progress.update(task, advance=count)
