"""What a submitted job runs: the functions that submitit calls on the other side.

submitit pickles a reference to them and the path of the run directory, nothing else.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from hpctrain.config import from_dict
from hpctrain.launch import local
from hpctrain.run_dir import RunDir, read_json


def local_job(path: str) -> str:
    """A background job on this machine: start all ranks, wait for them, leave the state behind."""
    run = RunDir(Path(path))
    process = local.start(run, from_dict(run.read_config()))
    asked_at = 0.0

    def asked(number: int, frame: object) -> None:
        nonlocal asked_at
        asked_at = asked_at or time.monotonic()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, asked)
    passed_on = False
    while process.poll() is None:
        if asked_at and not passed_on:
            local.ask_to_stop(process, run, signal.SIGINT)
            passed_on = True
        elif asked_at and time.monotonic() - asked_at > local.STOP_PATIENCE_S:
            local.kill(process, run)
        time.sleep(0.1)
    return str(local.finish(process, run).get("phase"))


def slurm_rank(path: str) -> int:
    """One rank of a Slurm job; all ranks of one start of a job share its token."""
    from hpctrain.launch import scheduler
    from hpctrain.training.worker import launched_rank, work

    run = RunDir(Path(path))
    if run.read_state().get("phase") == "done":
        return 0  # a later job of a chain: nothing is left to do
    job_id = os.environ["SLURM_JOB_ID"]
    token = f"slurm-{job_id}.{os.environ.get('SLURM_RESTART_COUNT', '0')}"
    code = work(run, token, scheduler.has_ended)
    if launched_rank() == 0 and run.read_state().get("phase") == "requeued":
        _go_on(run, job_id)
    return code


def _go_on(run: RunDir, job_id: str) -> None:
    """After an orderly stop: see that the run comes back, unless Slurm or the chain does so already."""
    from hpctrain.launch import scheduler
    from hpctrain.launch.submit import submit

    config = from_dict(run.read_config())
    reason = run.read_state()["reason"]
    job_ids = (read_json(run.submission_file) or {}).get("job_ids", [])
    if reason == "TERMINATED" or job_id in job_ids[:-1]:
        return  # Slurm alone knows whether it was scancel; or the next job of the chain takes over
    if config.resources.chain > 1:
        run.write_state(phase="interrupted", detail="the last job of the chain has ended; resume goes on")
        return
    try:
        if not config.cluster.requeue:
            raise scheduler.Unreachable("requeue is off for this cluster")
        scheduler.requeue(job_id)
    except scheduler.Unreachable as error:
        print(f"not requeued ({error}); submitting a new job", flush=True)
        submit(run, config, goes_on=True)
