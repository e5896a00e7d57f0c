"""Examines a cluster: asks Slurm, looks at the run folder and at Horovod, and submits one short job of two ranks.

Takes a configuration; yields findings. The job runs on two nodes if the cluster has two, else on one. Side effects:
that job, a folder in run.root while it runs, and conf/cluster/NAME.yaml if asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hpctrain import job_environment
from hpctrain.config.settings import Config
from hpctrain.errors import UserError
from hpctrain.hardware import gpu_count
from hpctrain.job_environment import user_name
from hpctrain.launch.doctor.findings import Finding, Site, judge, judge_job, preset
from hpctrain.launch.doctor.job import Seen
from hpctrain.scheduler import answers, client, site
from hpctrain.scheduler.submit import script, slurm_conf
from hpctrain.storage import ownership
from hpctrain.storage.folders import absolute, make_writable
from hpctrain.storage.json_files import load
from hpctrain.storage.run_dir import RunDir

JOB_PATIENCE_S = 300.0  # for the job to wait and to run


def examine(config: Config, with_job: bool, write_to: Path | None = None) -> Iterator[Finding]:
    """Yields all findings, each as soon as it is known; writes a preset made of them to `write_to`."""
    root = absolute(config.run.root)
    if config.cluster.kind == "local":
        yield from _local(config)
        return
    conf = slurm_conf(config)
    try:
        slurm = look(config, conf)
    except client.Unreachable as error:
        hint = f"start it with {config.cluster.source} up" if config.cluster.name == "devcluster" else (
            "ask on a login node of the cluster, with its Slurm commands on the PATH"
        )  # fmt: skip
        yield Finding("Slurm", f"does not answer: {error}", hint)
        return
    yield Finding("Slurm", f"{slurm.config.get('SLURM_VERSION')}, cluster {slurm.config.get('ClusterName')}")
    yield from judge(config, slurm)
    yield _run_folder(root, "give run.root=FOLDER on storage that all nodes share")
    if not os.access(root, os.W_OK):
        return
    if with_job and slurm.partition is not None:
        yield from _job(config, conf, root, two_nodes=len(slurm.nodes) > 1)
    with contextlib.suppress(OSError):  # not empty: it holds runs
        root.rmdir()
    if write_to:
        try:
            write_to.write_text(preset(write_to.stem, config, slurm))
            yield Finding("preset", f"{write_to}; use it as cluster={write_to.stem}")
        except OSError as error:
            yield Finding(
                "preset", str(error), "run hpctrain from a checkout of your own, where conf/ is yours"
            )


def look(config: Config, conf: str | None) -> Site:
    """Returns what Slurm says of itself. Raises Unreachable."""
    settings = site.parse_config(client.run(["scontrol", "show", "config"], conf))
    partitions = site.parse_partitions(client.run(["scontrol", "--oneliner", "show", "partition"], conf))
    wanted = config.cluster.partition
    partition = next((p for p in partitions if (p.name == wanted if wanted else p.default)), None)
    nodes = site.parse_nodes(client.run(["scontrol", "--oneliner", "show", "node"], conf))
    associations = None
    if "slurmdbd" in settings.get("AccountingStorageType", ""):
        query = ["sacctmgr", "--noheader", "--parsable2", "show", "assoc", f"user={user_name()}"]
        try:
            text = client.run([*query, "format=account,partition,maxsubmit"], conf)
            associations = site.parse_associations(text)
        except client.Unreachable:
            pass
    return Site(
        settings,
        partition,
        [n for n in nodes if partition is not None and partition.name in n.partitions],
        site.parse_mpi(_mpi_list(conf)),
        associations,
    )


def preset_path(name: str) -> Path:
    """Returns the file of a new preset. Raises UserError if the name is not one, or is taken."""
    from hpctrain.config.conf_files import conf_dir, groups

    if not name.replace("_", "").isalnum():
        raise UserError("--write", name, "must be letters, digits and _ only")
    if name in groups()["cluster"]:
        raise UserError("--write", name, "is there already; choose another name, or remove it first")
    return conf_dir() / "cluster" / f"{name}.yaml"


def _local(config: Config) -> Iterator[Finding]:
    """This machine, without Slurm."""
    yield _run_folder(absolute(config.run.root), "give run.root=FOLDER that you can write to")
    built = importlib.util.find_spec("horovod") is not None
    yield Finding(
        "Horovod", "installed" if built else "is missing", "" if built else "run slurm/build_horovod"
    )
    mpi = shutil.which("mpirun")
    yield Finding("mpirun", mpi or "is not on the PATH: several ranks use Gloo")
    yield Finding(
        "GPUs", f"{gpu_count()} of NVIDIA; one rank each" if gpu_count() else "none: ranks use the CPU"
    )


def _run_folder(root: Path, advice: str) -> Finding:
    """Whether runs can be written there, and whether others can take them away. Makes the folder."""
    try:
        make_writable(root)
    except UserError as error:
        return Finding("run folder", str(error), advice)
    if why := ownership.shared(root):
        return Finding("run folder", f"{root}: {why}", "do so, or give run.root=FOLDER of your own")
    return Finding("run folder", f"{root} can be written to")


def _job(config: Config, conf: str | None, root: Path, two_nodes: bool) -> Iterator[Finding]:
    """Submits a job of two ranks; yields the findings from what each of them saw."""
    folder = Path(tempfile.mkdtemp(dir=root, prefix=".doctor."))
    RunDir(folder).submitit.mkdir()
    try:
        file = folder / "job.sbatch"
        file.write_text(_script(config, folder, two_nodes))
        job_id = client.submit(file, conf)
    except client.Unreachable as error:
        shutil.rmtree(folder)
        yield Finding(
            "job", f"sbatch says: {error}", "see cluster.account, cluster.qos, cluster.partition and the like"
        )
        return
    try:
        end = _await(job_id, conf)
        ranks = [f for f in (load(folder / f"rank_{r}.json", Seen) for r in (0, 1)) if f]
        yield from judge_job(job_id, end, ranks, folder)
    finally:
        with contextlib.suppress(client.Unreachable):
            client.cancel([job_id], conf)
        shutil.rmtree(folder, ignore_errors=True)


def _script(config: Config, folder: Path, two_nodes: bool) -> str:
    """Returns the job's script: that of a run of two ranks, with another command."""
    nodes = 2 if two_nodes else 1
    resources = dataclasses.replace(
        config.resources, nodes=nodes, gpus_per_node=2 // nodes, timeout_min=5, chain=1
    )
    small = dataclasses.replace(config, resources=resources)
    module = f"hpctrain.launch.doctor.job {shlex.quote(str(folder))} 2"
    return script(RunDir(folder), small, "hpctrain:doctor", module)


def _await(job_id: str, conf: str | None) -> answers.Job | None:
    """Returns the job once it has ended, or as it is after JOB_PATIENCE_S; None if Slurm has forgotten it."""
    end_s = time.monotonic() + JOB_PATIENCE_S
    while True:
        try:
            job = client.queue(conf).get(job_id)
        except client.Unreachable:
            job = answers.Job(job_id, "PENDING", "Slurm does not answer")
        if job is None or job.state not in answers.LIVING or time.monotonic() > end_s:
            return job
        time.sleep(0.5)


def _mpi_list(conf: str | None) -> str:
    env = job_environment.for_slurm(conf)
    done = subprocess.run(["srun", "--mpi=list"], capture_output=True, text=True, env=env, check=False)
    return done.stdout + done.stderr  # Slurm writes the list to either
