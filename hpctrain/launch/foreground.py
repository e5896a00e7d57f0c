"""A run in the foreground: its ranks started here and shown until they end, Ctrl-C passed on to them.

Takes a prepared run directory and a stream to show it on. Side effects: processes, and signal handlers meanwhile.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import IO

from hpctrain.config.settings import Config
from hpctrain.launch import follow, local
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Reason, RunState


def run_here(run: RunDir, config: Config, out: IO[str], say: Callable[[str], None]) -> RunState:
    """Starts the ranks and shows them on `out`; returns the final state. Ctrl-C saves and stops; twice kills."""
    first = max(run.attempts(), default=0) + 1
    interrupts, asked_at = 0, 0.0

    def interrupted(number: int, frame: object) -> None:
        nonlocal interrupts
        interrupts += 1

    # First: ranks that run while nobody passes a Ctrl-C on to them would go on alone.
    before = {s: signal.signal(s, interrupted) for s in (signal.SIGINT, signal.SIGTERM)}
    process = local.start(run, config)

    def ended() -> bool:
        nonlocal asked_at
        if interrupts and not asked_at:
            say("saving a checkpoint and stopping (again to kill)")
            asked_at = time.monotonic()
            local.ask_to_stop(process, run, signal.SIGINT)
        elif asked_at and (interrupts > 1 or time.monotonic() - asked_at > local.STOP_PATIENCE_S):
            local.kill(process, run)
        return process.poll() is not None

    try:
        follow.follow(run, ended, out, first_attempt=first)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return local.finish(process, run, Reason.INTERRUPTED if interrupts else None, first - 1)
