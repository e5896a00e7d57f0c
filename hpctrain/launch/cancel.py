"""Ask a run to stop, wherever it is: in a queue, running on a cluster, or running here."""

from __future__ import annotations

import signal

from hpctrain.launch import local
from hpctrain.scheduler import client
from hpctrain.storage.run_dir import FINAL, RunDir


def cancel(run: RunDir) -> str:
    """Ask one run to save and stop; returns in words what was done."""
    state = run.read_state()
    if state.get("phase") in FINAL:
        return f"has ended already ({state['phase']})"
    run.cancel_file.touch()
    facts = run.read_submission()
    if facts.get("study"):  # its job has others to do as well, and passes the request on
        return "asked to save and stop"
    if facts.get("cluster", "local") != "local" and facts.get("job_ids"):
        try:
            client.cancel(facts["job_ids"], facts.get("slurm_conf"))
        except client.Unreachable as error:
            return f"Slurm did not take the request: {error}; try again"
        if state.get("phase") in ("submitted", "requeued"):
            run.write_state(phase="cancelled", reason="CANCELLED", detail="cancelled while it waited")
            return "cancelled while it waited"
    elif local.signal_ranks(run, signal.SIGINT) == 0:
        run.write_state(phase="cancelled", reason="CANCELLED", detail="cancelled before its ranks were up")
        return "cancelled"
    return "asked to save and stop"
