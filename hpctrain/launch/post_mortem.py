"""`python -m hpctrain.launch.post_mortem RUN CODE`: the batch shell's last line, after srun has ended with CODE.

Takes a run directory. If no rank was left to say how the attempt ended, finds out from what they left, says it on
stderr and writes state.json. Exits 0 if the run is in good order, else 1, or 228 if it failed as DISK_FULL: Slurm shows
the job as failed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hpctrain import job_environment
from hpctrain.launch.failure import settle
from hpctrain.storage import last_word
from hpctrain.storage.last_word import EXIT_DISK_FULL, LastWord
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Phase, Reason


def main() -> int:
    """Settles the run; returns the exit code."""
    run = RunDir(Path(sys.argv[1]))
    code = int(sys.argv[2]) if sys.argv[2:] else None
    state = run.read_state()
    full = code == EXIT_DISK_FULL and state.reason != Reason.DISK_FULL
    # A rank that got no answer cannot know why: srun does, if the other one was killed.
    said = state.final or state.phase == Phase.REQUEUED
    if not said or full or state.reason == Reason.COLLECTIVE_TIMEOUT:
        log = run.submitit / f"{job_environment.read().job_id}_0_log.out"
        state = settle(run, log.read_text(errors="replace") if log.exists() else "", code=code)
        if state.reason and state.phase == Phase.FAILED:  # state.json may not have taken it
            word = LastWord(state.reason, state.detail or "", state.rank)
            print(last_word.line(word), file=sys.stderr, flush=True)
    return last_word.exit_code(str(state.reason)) if state.phase == Phase.FAILED else 0


if __name__ == "__main__":
    sys.exit(main())
