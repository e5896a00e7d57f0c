"""`python -m hpctrain.launch.post_mortem RUN [CODE]`: the batch shell's last line, after srun has ended with CODE.

Takes a run directory. If no rank said how this start of the job ended, finds out from what the ranks left behind, says
it on stderr and writes state.json, unless another start has taken the run over. Exits with 0 if this start ended in
good order, else with the exit code of the reason (storage/run_state.py), so that Slurm shows the job as failed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hpctrain import job_environment
from hpctrain.errors import UserError
from hpctrain.launch import launcher_logs
from hpctrain.launch.failure import explain, settle
from hpctrain.scheduler import client
from hpctrain.storage import last_word, output
from hpctrain.storage.last_word import LastWord
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Phase, Reason
from hpctrain.storage.succession import superseded


def main() -> int:
    """Settles the run; returns the exit code. Leaves a run alone to which other users can write."""
    run, place = RunDir(Path(sys.argv[1])), job_environment.read()
    try:
        run.refuse_others()
    except UserError as error:
        print(f"hpctrain: {error}", file=sys.stderr, flush=True)
        return 1
    code = int(sys.argv[2]) if sys.argv[2:] else None
    attempt, state = run.attempt_of(place.start), run.read_state()
    text = launcher_logs.text(run, place.job_id)
    if who := superseded(run, attempt, place.job_id, client.has_ended):
        reason, detail, _ = explain(run, text, attempt, code)
        print(f"hpctrain: {who} has the run now; this start ended with {reason}: {detail}", flush=True)
        return 1
    said = state.final or (state.phase == Phase.REQUEUED and state.attempt == attempt)
    # A rank that got no answer cannot know why; srun knows it if another rank was killed.
    doubtful = state.reason == Reason.COLLECTIVE_TIMEOUT and state.attempt == attempt
    if not said or doubtful or last_word.unwritten(code, state.reason):
        state = settle(run, text, attempt, code)
        if state.phase == Phase.FAILED:  # state.json may not have taken it
            word = LastWord(str(state.reason), state.detail or "", state.rank)
            print(last_word.line(word), file=sys.stderr, flush=True)
    return last_word.exit_code(str(state.reason)) if state.phase == Phase.FAILED else 0


if __name__ == "__main__":
    output.as_log()
    sys.exit(main())
