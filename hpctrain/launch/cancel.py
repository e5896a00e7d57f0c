"""Ask a run to stop, wherever it is: in a queue, running on a cluster, or running here."""

from __future__ import annotations

import signal

from hpctrain.launch import local
from hpctrain.scheduler import client
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Phase


def cancel(run: RunDir) -> str:
    """Asks one run to save and stop; returns in words what was done."""
    state = run.read_state()
    if state.final:
        return f"has ended already ({state.phase})"
    run.cancel_file.touch()
    submission = run.submission.read()
    if submission.study:  # its job has others to do as well, and passes the request on
        return "asked to save and stop"
    if submission.in_slurm:
        try:
            client.cancel(submission.job_ids, submission.slurm_conf)
        except client.Unreachable as error:
            return f"Slurm did not take the request: {error}; try again"
        if state.phase in (Phase.SUBMITTED, Phase.REQUEUED):
            run.state.cancelled("cancelled while it waited")
            return "cancelled while it waited"
    elif local.signal_ranks(run, signal.SIGINT) == 0:
        run.state.cancelled("cancelled before its ranks were up")
        return "cancelled"
    return "asked to save and stop"
