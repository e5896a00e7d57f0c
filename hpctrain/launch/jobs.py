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
from hpctrain.run_dir import RunDir


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
    from hpctrain.training.worker import work

    token = f"slurm-{os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_RESTART_COUNT', '0')}"
    return work(RunDir(Path(path)), token)
