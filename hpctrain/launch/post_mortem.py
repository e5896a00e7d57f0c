"""`python -m hpctrain.launch.post_mortem RUN`: the batch shell's last line, after srun has ended.

Takes a run directory. If no rank was left to say how this start of the job ended, finds out from what they left and
writes state.json; unless another start has taken the run over, which knows better. Exits 0 if this start ended in good
order, else 1: Slurm shows the job as failed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hpctrain import job_environment
from hpctrain.launch import launcher_logs
from hpctrain.launch.failure import explain, settle
from hpctrain.scheduler import client
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Phase, Reason
from hpctrain.storage.succession import superseded


def main() -> int:
    """Settles the run; returns the exit code."""
    run, place = RunDir(Path(sys.argv[1])), job_environment.read()
    attempt, state = run.attempt_of(place.start), run.read_state()
    text = launcher_logs.text(run, place.job_id)
    if who := superseded(run, attempt, place.job_id, client.has_ended):
        reason, detail, _ = explain(run, text, attempt)
        print(f"hpctrain: {who} has the run now; this start ended with {reason}: {detail}", flush=True)
        return 1
    said = state.final or (state.phase == Phase.REQUEUED and state.attempt == attempt)
    # A rank that got no answer cannot know why: srun does, if the other one was killed.
    if not said or (state.reason == Reason.COLLECTIVE_TIMEOUT and state.attempt == attempt):
        state = settle(run, text, attempt)
    return 1 if state.phase == Phase.FAILED else 0


if __name__ == "__main__":
    sys.exit(main())
