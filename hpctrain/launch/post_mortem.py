"""`python -m hpctrain.launch.post_mortem RUN`: the batch shell's last line, after srun has ended.

Takes a run directory. Where no rank was left to say how the attempt ended, finds out from what they left
and writes state.json. Exits 0 where the run is in good order, else 1: Slurm shows the job as failed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hpctrain.launch import local
from hpctrain.run_dir import FINAL, RunDir


def main() -> int:
    run = RunDir(Path(sys.argv[1]))
    state = run.read_state()
    if state.get("phase") not in (*FINAL, "requeued"):
        reason, detail, rank = local.explain(run, code=1, on_this_host=False)
        phase = "cancelled" if reason == "CANCELLED" else "failed"
        state = run.write_state(phase=phase, reason=reason, detail=detail, rank=rank)
    return 1 if state["phase"] == "failed" else 0


if __name__ == "__main__":
    sys.exit(main())
