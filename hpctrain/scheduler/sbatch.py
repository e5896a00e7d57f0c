"""What Slurm is told: pure functions from resources to sbatch parameters.

Takes configurations, returns dictionaries. No I/O, no submitit, no torch. Parameter names are submitit's
(submitit.SlurmExecutor.update_parameters); times are in minutes or seconds as named.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from hpctrain.config.from_environment import as_shell, in_line
from hpctrain.config.settings import Config
from hpctrain.errors import UserError

PICKLE = "run.pkl"  # in submitit/: says what every job of the run calls
START_MARK = "hpctrain: start"  # opens each start's part of the batch shell's log
FAILED_MARK = "hpctrain: failed before srun:"  # opens the batch shell's line about a command of its own

# The name of this job in a script, as Slurm's commands take it: the SLURM_JOB_ID of an array's last task would name the
# whole array.
JOB = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
EXPORT_ALL = "--export=ALL"  # overrides SLURM_EXPORT_ENV of the submitter's environment

# The warning signals are meant for the ranks: the shell waits until srun has ended. Programs that the shell starts do
# not inherit a handler, as they would '' (ignore). Slurm ends the job by SIGTERM: what follows srun depends on it.
TRAPS = ("trap : HUP INT USR1 USR2", "hpctrain_ended=; trap 'hpctrain_ended=yes' TERM")
NOT_ENDED = '[ -z "$hpctrain_ended" ]'

# Options of sbatch that are settings of hpctrain: a second value would contradict what the run is planned with.
_SETTINGS = {
    "nodes": "resources.nodes",
    "ntasks": "resources.nodes and resources.gpus_per_node",
    **dict.fromkeys(
        ("ntasks-per-node", "tasks-per-node", "ntasks-per-gpu", "gpus", "gpus-per-node", "gpus-per-task"),
        "resources.gpus_per_node",
    ),
    "cpus-per-task": "resources.cpus_per_rank",
    "cpus-per-gpu": "resources.cpus_per_rank",
    "mem": "resources.mem_gb_per_rank",
    "time": "resources.timeout_min",
    **{name: f"cluster.{name}" for name in ("partition", "account", "qos", "constraint", "reservation")},
}

# Options of sbatch by which hpctrain knows its jobs, and why a user cannot give them.
_OWN = {
    "comment": "it tells the run's jobs from others of the same number",
    "job-name": "it tells the run's jobs from others of the same number",
    "array": "a sweep makes arrays: hpctrain sweep",
    "clusters": "a cluster is chosen by its preset: cluster=NAME with cluster.slurm_conf",
    "output": "the job's log is kept with the run: hpctrain logs",
    "signal": "the warning is set by cluster.signal_s",
    **dict.fromkeys(("requeue", "no-requeue"), "give cluster.requeue=true or false"),
    **dict.fromkeys(("parsable", "quiet"), "sbatch's own words name the job"),
    "test-only": "it makes no job: hpctrain submit --dry-run shows the script",
    "wait": "hpctrain returns at once: hpctrain logs -f follows the run",
    "wrap": "the job's script is the run",
    **{name: f"give {setting}" for name, setting in _SETTINGS.items()},
}

_MEMORY_SHARE = 0.97  # of a node's memory is for jobs: the system needs the rest


def check(config: Config) -> None:
    """Raises UserError if the settings do not fit the cluster as its preset describes it."""
    cluster, resources = config.cluster, config.resources
    for needed in cluster.needs:
        if not getattr(cluster, needed):
            raise UserError(
                f"cluster.{needed}", "null", f"{cluster.name} needs it: give cluster.{needed}=NAME"
            )
    try:
        shlex.split(cluster.python or "")
    except ValueError as error:
        raise UserError("cluster.python", cluster.python, f"is not a command line: {error}".lower()) from None
    for name, given in cluster.sbatch.items():
        own = name.lstrip("-").replace("_", "-")
        if len(own) == 1:
            raise UserError(f"cluster.sbatch.{name}", given, "must be an option's long name, such as nice")
        if own in _OWN:
            raise UserError(f"cluster.sbatch.{name}", given, f"cannot be given: {_OWN[own]}")
        if own in ("mem-per-cpu", "mem-per-gpu") and given and _memory(config):
            of_rank = config.resources.mem_gb_per_rank
            asks = "resources.mem_gb_per_rank" if of_rank else "cluster.mem_gb_per_node"
            raise UserError(
                f"cluster.sbatch.{name}",
                given,
                f"sbatch refuses it beside --mem, which {asks} asks for: give {asks}=null",
            )  # fmt: skip
    for key, value, limit, what in (
        ("resources.gpus_per_node", resources.gpus_per_node, cluster.gpus_per_node, "GPUs per node"),
        ("resources.nodes", resources.nodes, cluster.max_nodes, "nodes per job"),
        (
            "resources.mem_gb_per_rank",
            resources.mem_gb_per_rank,
            (cluster.mem_gb_per_node or 0) / config.ranks_per_node,
            "GB per rank",
        ),
        ("resources.timeout_min", resources.timeout_min, cluster.max_time_min, "minutes, the time limit"),
    ):
        if value and limit and value > limit:
            raise UserError(key, value, f"must be ≤ {limit:.10g}, {cluster.name}'s {what}")
    if cpus_per_rank(config) * config.ranks_per_node > (cluster.cpus_per_node or 10**9):
        raise UserError(
            "resources.cpus_per_rank", resources.cpus_per_rank,
            f"× {config.ranks_per_node} ranks is more than the {cluster.cpus_per_node} cores of a node",
        )  # fmt: skip


def cpus_per_rank(config: Config) -> int:
    """Returns the cores per rank: as asked for, else its GPU's share of the node."""
    cluster = config.cluster
    if config.resources.cpus_per_rank:
        return config.resources.cpus_per_rank
    if cluster.cpus_per_gpu:
        return cluster.cpus_per_gpu
    if cluster.cpus_per_node:
        return max(1, cluster.cpus_per_node // config.slots_of_node)
    return 1


def timeout_min(config: Config) -> int:
    """Returns the job's time limit: as asked for, else all that the partition allows, else an hour."""
    return config.resources.timeout_min or config.cluster.max_time_min or 60


def node_hours(config: Config) -> float:
    """Returns what the job may cost at most: nodes × time limit × jobs in the chain."""
    return config.resources.nodes * timeout_min(config) / 60 * config.resources.chain


def sbatch_parameters(config: Config, run: PurePath, python: str, comment: str) -> dict[str, Any]:
    """Returns everything that submitit needs to write the job's script. One rank is one task, and has one GPU.

    `run` is the run directory; `python` the interpreter's command line (see `python_command`).
    """
    cluster, resources = config.cluster, config.resources
    ranks, cpus = config.ranks_per_node, cpus_per_rank(config)
    post_mortem = f"{python} -m hpctrain.launch.post_mortem {shlex.quote(str(run))}"
    parameters: dict[str, Any] = {
        "job_name": run.name,
        "comment": comment,
        "time": timeout_min(config),
        "nodes": resources.nodes,
        "ntasks_per_node": ranks,
        "cpus_per_task": cpus,
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "exclusive": cluster.exclusive or None,
        "mem": _memory(config),
        "signal_delay_s": cluster.signal_s,
        "stderr_to_stdout": True,
        "setup": setup(config, run, post_mortem),
        # If no rank said how the run ended, the batch shell finds out. If Slurm ended it, Slurm knows why.
        "teardown": ["code=$?", f"{NOT_ENDED} || exit $code", f"{post_mortem} $code"],
        "srun_args": [
            *([f"--mpi={cluster.mpi}"] if cluster.mpi else []),
            EXPORT_ALL,
            f"--cpus-per-task={cpus}",  # since 22.05 srun no longer takes it from sbatch
            "--kill-on-bad-exit=1",  # a rank that dies takes the others with it
            *cluster.srun_args,
        ],
        "additional_parameters": _options(
            {
                ("requeue" if cluster.requeue else "no-requeue"): True,
                "open-mode": "append",
                **({"reservation": cluster.reservation} if cluster.reservation else {}),
                **dict(cluster.sbatch),
            }
        ),
    }
    if resources.device != "cpu" and cluster.gpus_per_node:
        if cluster.gpu_gres:
            parameters["gres"] = f"{cluster.gpu_gres}:{ranks}"
        else:
            parameters["gpus_per_node"] = ranks
    given = {key: value for key, value in parameters.items() if value is not None}
    return given | {"wckey": None}  # submitit's own default is refused if wckeys are enforced


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of sbatch without those that are false or null."""
    return {name: value for name, value in given.items() if value is not None and value is not False}


def with_percent(text: str, folder: PurePath) -> str:
    """Returns a job's script in which a % in the folder of the logs is doubled: Slurm would read %j as the job's id."""
    quoted = str(folder).replace("'", """'"'"'""")  # as in shlex.quote
    return text.replace(f"{quoted}/%", f"{quoted.replace('%', '%%')}/%")


def python_command(config: Config, executable: str) -> str:
    """Returns how a job starts Python: this environment's, the preset's, or that inside the container.

    With -P, Python takes no modules from the folder in which the job was submitted.
    """
    given = shlex.join(shlex.split(config.cluster.python or ""))
    if config.cluster.container:
        gpu = "" if config.resources.device == "cpu" else "--nv "
        return f"apptainer exec {gpu}{shlex.quote(config.cluster.container)} {given or 'python3'} -P"
    return f"{given or shlex.quote(executable)} -P"


def _memory(config: Config) -> str | None:
    """Returns the memory per node in MB: as asked for per rank, else the ranks' share of the node's memory."""
    cluster, ranks = config.cluster, config.ranks_per_node
    if config.resources.mem_gb_per_rank:
        return f"{round(config.resources.mem_gb_per_rank * ranks * 1024)}M"
    if cluster.mem_gb_per_node:
        share = min(1.0, ranks / config.slots_of_node)
        return f"{int(cluster.mem_gb_per_node * share * _MEMORY_SHARE * 1024)}M"
    return None


def setup(config: Config, folder: PurePath, if_not: str = "", pickle: str = PICKLE) -> list[str]:
    """Returns the shell lines before srun: traps, modules, the site's own lines, variables.

    `folder` holds submitit/, and there `pickle`, which says what the job calls. A `module load` that fails ends the
    job, after the command `if_not`.
    """
    cluster, files = config.cluster, shlex.quote(str(folder / "submitit"))
    modules = [as_shell(_written(config, f"modules.{n}", name)) for n, name in enumerate(cluster.modules)]
    loads = [f"module load {' '.join(modules)}"] if modules else []
    lines = [in_line(_written(config, f"setup.{n}", line)) for n, line in enumerate(cluster.setup)]
    return [
        *TRAPS,
        f'echo "{START_MARK} ${{SLURM_RESTART_COUNT:-0}} of job {JOB} on $SLURM_JOB_NODELIST"',
        # submitit gives the pickle its name after sbatch has answered; a submitter may be killed before that.
        f"ln -sf {pickle} {files}/{JOB}_submitted.pkl 2>/dev/null || true",
        *(_or_end(line, if_not) for line in (*loads, *lines)),
        *(
            f"export {key}={as_shell(_written(config, f'environment.{key}', value))}"
            for key, value in cluster.environment.items()
        ),
    ]


def _written(config: Config, key: str, value: str) -> str:
    """Returns a setting of the cluster as the user wrote it: a reference to a variable stays one in the script."""
    return config.from_environment.get(f"cluster.{key}", value)


def _or_end(line: str, if_not: str) -> str:
    """Returns a line of the setup; a line that loads modules ends the job if it fails."""
    if not line.startswith("module load "):
        return line
    said = shlex.quote(f"{FAILED_MARK} {line}")
    return f"{line} || {{ echo {said}; {if_not + '; ' if if_not else ''}exit 1; }}"
