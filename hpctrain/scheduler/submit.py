"""Submits jobs through submitit.

Takes a configuration and its prepared run directory; starts a Slurm job, or a background job on this
machine (cluster=local). Side effects: files under <run>/submitit, submission.json, one sbatch call per job.

submission.json is written with a token before sbatch is called, and the job's comment has the token. So if the
submitter dies in between, the next submit finds the job instead of submitting a second one.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpctrain import job_environment
from hpctrain.config.settings import Config
from hpctrain.errors import RunFailed, UserError
from hpctrain.hardware import gpu_count
from hpctrain.scheduler import answers, client, sbatch
from hpctrain.scheduler.recognition import comment_of, is_newest, jobs_of, original
from hpctrain.storage.folders import absolute, make_private
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Phase, Reason, RunState, Submission

CHECKED = "hpctrain.scheduler.checked"  # the module that each job runs first, in place of submitit's own
# No scheduler limits local jobs, but submitit wants a limit in minutes.
LOCAL_LIMIT_MIN = 30 * 24 * 60


def check_here(config: Config) -> None:
    """Raises UserError if this machine cannot submit to the cluster."""
    cluster, conf = config.cluster, slurm_conf(config)
    if cluster.kind != "slurm":
        return
    missing = [command for command in ("sbatch", "squeue", "scancel") if shutil.which(command) is None]
    if missing:
        raise UserError(
            "cluster", cluster.name, f"{missing[0]} is not on the PATH: this is not a login node of a Slurm cluster; "
            "here cluster=local trains, and --dry-run shows the job"
        )  # fmt: skip
    if conf and not Path(conf).exists():
        hint = f" ({cluster.source} up)" if cluster.source == "slurm/devcluster" else ""
        raise UserError("cluster", cluster.name, f"is not up: there is no {conf}{hint}")


def slurm_conf(config: Config) -> str | None:
    """Returns the slurm.conf that names the cluster's controller, absolute; None for Slurm's own default."""
    given = job_environment.read().slurm_conf or config.cluster.slurm_conf
    return str(absolute(Path(given).expanduser())) if given else None


def submit(
    run: RunDir, config: Config, job: Callable[[str], Any], goes_on: bool = False, after: str | None = None
) -> str:
    """Submits the run as a job that calls `job` with the run's path; returns the job id.

    The caller has the right to start the run (launch/start.py). `goes_on`: a job of the run that is about to end calls
    this, and the count of starts without progress continues. The new job begins when job `after` has ended, in whatever
    way. Raises RunFailed(SUBMIT_FAILED) with the scheduler's own message, and leaves nothing behind.
    """
    make_private(run.submitit)
    if lost := complete(run):
        return lost[0]
    submission = run.submission.read()
    if original(run, submission):  # this folder is a copy: the jobs are the original's
        submission = Submission()
    # The job of an earlier call, whose answer was lost, may still come: it is known by its token.
    unanswered = submission.open
    token = submission.token if unanswered and submission.token else uuid.uuid4().hex
    conf = slurm_conf(config) if config.cluster.kind == "slurm" else None
    if goes_on:  # a node may know the cluster by another file than the login nodes
        conf = submission.slurm_conf or conf
    submission = replace(
        submission, cluster=config.cluster.name, token=token, open=True, study=False, over=False,
        slurm_conf=conf, path=str(run.path), damage=None,
    )  # fmt: skip
    run.submission.write(submission)
    run.cancel_file.unlink(missing_ok=True)
    run.pause_at(None)
    before = run.read_state()
    if not goes_on:
        run.state.submitted(first=True)
    comment = comment_of(run.run_id, token)
    try:
        local_job = config.cluster.kind == "local"
        job_ids = (
            [submit_here(run.submitit, config, job, str(run.path))]
            if local_job
            else _submit_slurm(run, config, comment, job, after)
        )
    except RunFailed as error:
        refused = answers.refused(error.detail)
        if refused and before == RunState():
            run.discard()
            raise
        run.state.not_submitted(before, error.reason, error.detail)
        run.submission.write(replace(submission, open=unanswered or not refused))
        raise
    run.submission.write(submission.with_jobs(job_ids, *(() if local_job else (comment, run.run_id))))
    return job_ids[0]


def complete(run: RunDir) -> list[str]:
    """Notes the jobs of a submission whose submitter died before it could; returns their ids, [] if there are none.

    The caller has the right to start the run. Raises RunFailed(SUBMIT_FAILED) if Slurm does not say.
    """
    submission = run.submission.read()
    if original(run, submission) is not None or not (lost := _lost_submission(run, submission)):
        return []
    comment = "" if submission.damage else comment_of(run.run_id, submission.token)
    run.submission.write(submission.with_jobs(lost, comment, run.run_id))
    state = run.read_state()
    if state.final or state.phase == Phase.NEW:
        run.state.submitted()
    return lost


def script(run: RunDir, config: Config, comment: str = "", module: str = "") -> str:
    """Returns the sbatch script, exactly as it would be submitted; `module` replaces what it runs. Needs no Slurm."""
    from submitit.slurm.slurm import _make_sbatch_string

    python = sbatch.python_command(config, sys.executable)
    parameters = sbatch.sbatch_parameters(
        config, run.path, python, comment or comment_of(run.run_id, "TOKEN")
    )
    if module:
        del parameters["teardown"]
    command = f"{python} -u -m {module or _checked(run.submitit)}"
    text: str = _make_sbatch_string(command=command, folder=run.submitit, **parameters)
    return sbatch.with_percent(text, run.submitit)


def _submit_slurm(
    run: RunDir, config: Config, comment: str, job: Callable[[str], Any], after: str | None
) -> list[str]:
    """Calls sbatch once for each job of the chain; returns the ids in the order in which the jobs run."""
    python = sbatch.python_command(config, sys.executable)
    executor = _slurm_executor(
        run.submitit, config, sbatch.sbatch_parameters(config, run.path, python, comment)
    )
    _dump(executor, config, run.submitit / sbatch.PICKLE, job, str(run.path))
    ids: list[str] = []
    try:
        for _ in range(config.resources.chain):
            if before := ids[-1] if ids else after:
                executor.update_parameters(dependency=f"afterany:{before}")
            ids.append(str(executor.submit(job, str(run.path)).job_id))
    except (client.Unreachable, OSError) as error:
        with contextlib.suppress(client.Unreachable):
            client.cancel(ids, slurm_conf(config))
        raise RunFailed(Reason.SUBMIT_FAILED, str(error)) from None
    return ids


def submit_array(
    folder: Path,
    config: Config,
    parameters: dict[str, Any],
    pickle: str,
    function: Callable[..., Any],
    *arguments: Any,
) -> str:
    """Submits an array of jobs that all call `function`, by one sbatch call; returns the array's job id.

    `folder` takes submitit's files. `parameters` are submitit's; they make each task link `pickle`, the file that says
    what to call, to its own name, so the array needs nothing more once sbatch has it. Raises RunFailed.
    """
    executor = _slurm_executor(folder, config, parameters)
    _dump(executor, config, folder / pickle, function, *arguments)
    try:
        return str(executor.submit(function, *arguments).job_id)
    except (client.Unreachable, OSError) as error:
        raise RunFailed(Reason.SUBMIT_FAILED, str(error)) from None


def _slurm_executor(folder: Path, config: Config, parameters: dict[str, Any]) -> Any:
    """Returns submitit's executor with our call of sbatch: its time limit, environment and parser of the answer."""
    import submitit
    from submitit.core.utils import JobPaths

    class Executor(submitit.SlurmExecutor):
        @property
        def _submitit_command_str(self) -> str:
            return f"{self.python} -u -m {_checked(self.folder)}"

        def _submit_command(self, command: str) -> Any:
            name = uuid.uuid4().hex
            script = JobPaths.get_first_id_independent_folder(self.folder) / f"submission_file_{name}.sh"
            script.write_text(
                sbatch.with_percent(self._make_submission_file_text(command, name), self.folder)
            )
            job_id = client.submit(script, slurm_conf(config))
            job: Any = self.job_class(folder=self.folder, job_id=job_id, tasks=list(range(self._num_tasks())))
            job.paths.move_temporary_file(script, "submission_file", keep_as_symlink=True)
            return job

    try:
        executor = Executor(folder, python=sbatch.python_command(config, sys.executable))
    except RuntimeError:
        raise RunFailed(Reason.SUBMIT_FAILED, "srun is not on the PATH: not on a Slurm cluster") from None
    executor.update_parameters(**parameters)
    return executor


def _dump(executor: Any, config: Config, path: Path, function: Callable[..., Any], *arguments: Any) -> None:
    """Writes the pickle that says what a job calls."""
    from submitit.core.utils import DelayedSubmission

    delayed = DelayedSubmission(function, *arguments)
    delayed.set_timeout(sbatch.timeout_min(config), executor.max_num_timeout)
    delayed.dump(path)


def submit_here(folder: Path, config: Config, function: Callable[..., Any], *arguments: Any) -> str:
    """Starts a background process on this machine that calls `function`; returns submitit's id of it."""
    import submitit

    class Executor(submitit.LocalExecutor):
        @property
        def _submitit_command_str(self) -> str:
            return f"{self.python} -P -u -m {_checked(self.folder)}"

    executor = Executor(folder)
    gpus = list(range(gpu_count()))
    executor.update_parameters(
        timeout_min=config.resources.timeout_min or LOCAL_LIMIT_MIN,
        **({"gpus_per_node": len(gpus), "visible_gpus": gpus} if gpus else {}),
    )
    # The job outlives the terminal it was started from.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with _stdio_elsewhere(folder), job_environment.safe_path():  # the controller has submitit's command line
        job = executor.submit(function, *arguments)
    job_id = str(job.job_id)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # its process is meant to outlive this one
        del job
    return job_id


def _checked(folder: Path) -> str:
    """Returns what Python runs as `-m`: our check of submitit's folder, which then calls submitit."""
    return f"{CHECKED} {shlex.quote(str(folder))}"


def _lost_submission(run: RunDir, submission: Submission) -> list[str]:
    """Returns the jobs of a submission whose submitter died before it could note their ids. Raises RunFailed."""
    if not submission.open or submission.cluster == "local":
        return []
    try:
        queue = client.queue(submission.slurm_conf)
    except client.Unreachable as error:
        detail = f"a submission of this run may be under way, and Slurm does not say so: {error}; try again"
        raise RunFailed(Reason.SUBMIT_FAILED, detail) from None
    return [
        job.job_id
        for job in jobs_of(run, submission, queue)
        if is_newest(run, submission, job) and (job.state not in answers.ENDED or not submission.damage)
    ]


@contextlib.contextmanager
def _stdio_elsewhere(folder: Path) -> Iterator[None]:
    """Redirects this process's standard streams: the job's controller inherits them, and would keep a pipe open."""
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
