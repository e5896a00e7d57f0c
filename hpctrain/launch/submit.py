"""Jobs through submitit. The only file that imports it.

Takes a configuration and its prepared run directory; starts a Slurm job, or a background job on this
machine (cluster=local). Side effects: files under <run>/submitit, submission.json, one sbatch call.
"""

from __future__ import annotations

import json
import signal
import time
import uuid
import warnings
from typing import Any

from hpctrain.config import Config
from hpctrain.launch import jobs, local
from hpctrain.run_dir import RunDir, make_private, replace_text

# Local jobs have no scheduler that sets a limit; submitit wants one, in minutes.
LOCAL_LIMIT_MIN = 30 * 24 * 60


def submit_local(run: RunDir, config: Config) -> str:
    """Start the run in the background of this machine; gives submitit's job id (a process id)."""
    import submitit

    make_private(run.submitit)
    executor = submitit.LocalExecutor(run.submitit)
    gpus = list(range(local.gpu_count()))
    executor.update_parameters(
        timeout_min=config.resources.timeout_min or LOCAL_LIMIT_MIN,
        **({"gpus_per_node": len(gpus), "visible_gpus": gpus} if gpus else {}),
    )
    write_submission(run, {"cluster": config.cluster.name, "token": uuid.uuid4().hex, "job_ids": []})
    run.write_state(phase="submitted", reason=None, detail=None, rank=None, ranks=config.ranks)
    # The job outlives the terminal it was started from.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    job = executor.submit(jobs.local_job, str(run.path))
    add_job(run, job.job_id)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the job is meant to go on without us
        del job
    return run_job_id(run)


def write_submission(run: RunDir, values: dict[str, Any]) -> None:
    replace_text(run.submission_file, json.dumps(values | {"time": time.time()}))


def add_job(run: RunDir, job_id: str) -> None:
    """Note one more job of this run, the newest last."""
    values = json.loads(run.submission_file.read_text())
    values["job_ids"].append(job_id)
    replace_text(run.submission_file, json.dumps(values))


def run_job_id(run: RunDir) -> str:
    """The newest job's id."""
    return str(json.loads(run.submission_file.read_text())["job_ids"][-1])
