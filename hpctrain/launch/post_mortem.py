"""`python -m hpctrain.launch.post_mortem RUN`: the batch shell's last line, after srun has ended.

Takes a run directory. If no rank was left to say how the attempt ended, finds out from what they left
and writes state.json. Exits 0 if the run is in good order, else 1: Slurm shows the job as failed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hpctrain import job_environment
from hpctrain.launch import launcher_logs
from hpctrain.launch.failure import settle
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Phase, Reason


def main() -> int:
    """Settles the run; returns the exit code."""
    run = RunDir(Path(sys.argv[1]))
    state = run.read_state()
    # A rank that got no answer cannot know why: srun does, if the other one was killed.
    if not (state.final or state.phase == Phase.REQUEUED) or state.reason == Reason.COLLECTIVE_TIMEOUT:
        state = settle(run, launcher_logs.text(run, job_environment.read().job_id))
    return 1 if state.phase == Phase.FAILED else 0


if __name__ == "__main__":
    sys.exit(main())
