"""Jobs through submitit. The only file that imports it.

Takes a configuration and its prepared run directory; starts a Slurm job, or a background job on this
machine (cluster=local). Side effects: files under <run>/submitit, submission.json, one sbatch call.

submission.json is written with a token before sbatch is called, and the token is in the job's comment: a
submitter that dies in between leaves a job that the next submit finds, instead of a second one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hpctrain.config import Config
from hpctrain.errors import RunFailed
from hpctrain.launch import jobs, local, scheduler, slurm
from hpctrain.run_dir import RunDir, make_private, read_json, replace_text

# Local jobs have no scheduler that sets a limit; submitit wants one, in minutes.
LOCAL_LIMIT_MIN = 30 * 24 * 60


def submit(run: RunDir, config: Config, goes_on: bool = False) -> str:
    """Submit the run as a job; gives the job id. A job of it that is under way already is kept.

    `goes_on`: from inside a job of the run that ends now; the count of starts without progress goes on.
    Raises RunFailed("SUBMIT_FAILED") with the scheduler's own message, leaving nothing behind.
    """
    make_private(run.submitit)
    with _only_submitter(run):
        lost = _lost_submission(run, config)
        if lost:
            _note_job(run, lost)
            return lost
        token = uuid.uuid4().hex
        earlier = (read_json(run.submission_file) or {}).get("job_ids", [])
        facts = {"cluster": config.cluster.name, "token": token, "job_ids": earlier, "open": True}
        replace_text(run.submission_file, json.dumps(facts | {"time": time.time()}))
        run.cancel_file.unlink(missing_ok=True)
        run.pause_at(None)
        before = run.read_state()
        if not goes_on:
            run.write_state(phase="submitted", reason=None, detail=None, rank=None, starts=[])
        try:
            local_job = config.cluster.kind == "local"
            job_id = _submit_local(run, config) if local_job else _submit_slurm(run, config, token)
        except RunFailed as error:
            run.write_state(phase=before.get("phase", "failed"), reason=error.reason, detail=error.detail)
            replace_text(run.submission_file, json.dumps(facts | {"open": False}))
            raise
        _note_job(run, job_id)
        return job_id


def script(run: RunDir, config: Config, comment: str = "") -> str:
    """The sbatch script, exactly as it would be submitted."""
    executor = _slurm_executor(run, config, comment or _comment(run, "TOKEN"))
    text: str = executor._make_submission_file_text(executor._submitit_command_str, "")
    return text


def _submit_local(run: RunDir, config: Config) -> str:
    """Start the run in the background of this machine; the id is submitit's, a process id."""
    return submit_here(run.submitit, config, jobs.local_job, str(run.path))


def _submit_slurm(run: RunDir, config: Config, token: str) -> str:
    """One sbatch call for each job of the chain; gives the first job's id."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    os.environ.update({k: v for k, v in scheduler.environment(config.cluster).items() if k == "SLURM_CONF"})
    executor = _slurm_executor(run, config, _comment(run, token))
    ids: list[str] = []
    try:
        for _ in range(config.resources.chain):
            if ids:
                executor.update_parameters(dependency=f"afterany:{ids[-1]}")
            ids.append(str(executor.submit(jobs.slurm_rank, str(run.path)).job_id))
            for later in ids[1:]:
                _note_job(run, later)
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        with contextlib.suppress(scheduler.Unreachable):
            scheduler.cancel(ids)
        said = [x for x in str(error).splitlines() if "sbatch:" in x] or [str(error)]
        raise RunFailed("SUBMIT_FAILED", " ".join(" ".join(said).split())) from None
    return ids[0]


def submit_array(
    folder: Path,
    config: Config,
    parameters: dict[str, Any],
    pickle: str,
    function: Callable[..., Any],
    *arguments: Any,
) -> str:
    """One sbatch call for an array of jobs that all call the same; gives the array's job id.

    `folder` takes submitit's files, `parameters` are submitit's and link `pickle`, the file there that says
    what to call, to each task's name: the array needs nothing of us once sbatch has it. Raises RunFailed.
    """
    import submitit
    from submitit.core.utils import DelayedSubmission, FailedJobError, FailedSubmissionError

    os.environ.update({k: v for k, v in scheduler.environment(config.cluster).items() if k == "SLURM_CONF"})
    try:
        executor = submitit.SlurmExecutor(folder, python=slurm.python_command(config, sys.executable))
    except RuntimeError:
        raise RunFailed("SUBMIT_FAILED", "srun is not on the PATH: not on a Slurm cluster") from None
    executor.update_parameters(**parameters)
    delayed = DelayedSubmission(function, *arguments)
    delayed.set_timeout(slurm.timeout_min(config), executor.max_num_timeout)
    delayed.dump(folder / pickle)
    try:
        return str(executor.submit(function, *arguments).job_id)
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        said = [x for x in str(error).splitlines() if "sbatch:" in x] or [str(error)]
        raise RunFailed("SUBMIT_FAILED", " ".join(" ".join(said).split())) from None


def submit_here(folder: Path, config: Config, function: Callable[..., Any], *arguments: Any) -> str:
    """A process in the background of this machine that calls `function`; gives its id."""
    import submitit

    executor = submitit.LocalExecutor(folder)
    gpus = list(range(local.gpu_count()))
    executor.update_parameters(
        timeout_min=config.resources.timeout_min or LOCAL_LIMIT_MIN,
        **({"gpus_per_node": len(gpus), "visible_gpus": gpus} if gpus else {}),
    )
    # The job outlives the terminal it was started from.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with _stdio_elsewhere(folder):
        job = executor.submit(function, *arguments)
    job_id = str(job.job_id)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # its process is meant to go on without us
        del job
    return job_id


def _slurm_executor(run: RunDir, config: Config, comment: str) -> Any:
    import submitit

    python = slurm.python_command(config, sys.executable)
    try:
        executor = submitit.SlurmExecutor(run.submitit, python=python)
    except RuntimeError:
        raise RunFailed("SUBMIT_FAILED", "srun is not on the PATH: not on a Slurm cluster") from None
    executor.update_parameters(**slurm.sbatch_parameters(config, run.path, python, comment))
    return executor


def _comment(run: RunDir, token: str) -> str:
    return f"hpctrain:{run.run_id}:{token}"


def _lost_submission(run: RunDir, config: Config) -> str | None:
    """The job of a submission whose submitter died before it could note the id."""
    facts = read_json(run.submission_file) or {}
    if not facts.get("open") or config.cluster.kind == "local":
        return None
    return scheduler.find_by_comment(_comment(run, facts["token"]), scheduler.environment(config.cluster))


def _note_job(run: RunDir, job_id: str) -> None:
    """Add a job to submission.json, the newest last: the submission is complete."""
    facts = read_json(run.submission_file) or {"job_ids": []}
    ids = [*(i for i in facts["job_ids"] if i != job_id), job_id]
    replace_text(run.submission_file, json.dumps(facts | {"job_ids": ids, "open": False}))


@contextlib.contextmanager
def _stdio_elsewhere(folder: Path) -> Iterator[None]:
    """The job's controller inherits our standard streams: a pipe of ours would stay open with it."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(number) for number in range(3)]
    with Path(os.devnull).open() as nothing, (folder / "controller.log").open("a") as log:
        for number, target in enumerate((nothing, log, log)):
            os.dup2(target.fileno(), number)
    try:
        yield
    finally:
        for number, copy in enumerate(saved):
            os.dup2(copy, number)
            os.close(copy)


@contextlib.contextmanager
def _only_submitter(run: RunDir) -> Iterator[None]:
    """One submit of a run at a time, on this host."""
    with (run.path / ".submit.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
