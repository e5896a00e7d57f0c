"""Runs in the foreground: starts the ranks here, shows them until they end, and passes Ctrl-C on to them.

Takes a prepared run directory and a stream to show it on. Side effects: processes, and signal handlers meanwhile.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import IO

from hpctrain.config.settings import Config
from hpctrain.launch import follow, local
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Reason, RunState


def run_here(run: RunDir, config: Config, out: IO[str], say: Callable[[str], None]) -> RunState:
    """Starts the ranks and shows them on `out`; returns the final state. Ctrl-C saves and stops; twice kills."""
    first = max(run.attempts(), default=0) + 1
    interrupts = 0

    def interrupted(number: int, frame: object) -> None:
        nonlocal interrupts
        interrupts += 1

    # This comes first: ranks that are up before it would not hear of a Ctrl-C, and go on alone.
    before = {s: signal.signal(s, interrupted) for s in (signal.SIGINT, signal.SIGTERM)}
    ranks = local.start(run, config)

    def ended() -> bool:
        if ranks.attend(interrupts > 0, at_once=interrupts > 1):
            say("saving a checkpoint and stopping (again to kill)")
        return ranks.poll() is not None

    try:
        follow.follow(run, ended, out, first_attempt=first)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return ranks.finish(Reason.INTERRUPTED if interrupts else None)
