"""`hpctrain doctor [cluster=NAME] [--no-job] [--json] [--write NAME]`: is this cluster as its preset says, and does
a job of two ranks run on it?

Takes settings as submit does; looks at Slurm, at the run folder and at Horovod, and submits one short job of two
ranks on two nodes (one, where there is one) that looks from there. Prints a line a finding: ok, or what is wrong
and what to do. Exit code 0 where all is ok, 1 where something is wrong. Without cluster=NAME it looks at the
cluster that it is on. --no-job leaves the job out; --write NAME writes what it found as conf/cluster/NAME.yaml.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpctrain.config import Config
from hpctrain.errors import UserError
from hpctrain.launch import scheduler, site, slurm
from hpctrain.launch.submit import slurm_conf
from hpctrain.run_dir import make_private, read_json

JOB_PATIENCE_S = 300.0  # in the queue and running


@dataclass(frozen=True)
class Finding:
    """One line. `advice` is empty where it is ok."""

    what: str
    text: str
    advice: str = ""

    @property
    def ok(self) -> bool:
        return not self.advice


@dataclass(frozen=True)
class Site:
    """What Slurm says of itself. `partition` is the one that jobs go to."""

    config: dict[str, str]
    partition: site.Partition | None
    nodes: list[site.Node]
    mpi: list[str]
    associations: list[site.Association] | None

    @property
    def node(self) -> site.Node | None:
        """The least that every node of the partition has."""
        if not self.nodes:
            return None
        least = {key: min(getattr(n, key) for n in self.nodes) for key in ("cpus", "memory_mb", "gpus")}
        return dataclasses.replace(self.nodes[0], **least)


def doctor(argv: list[str]) -> int:
    from hpctrain.compose import load

    argv, name = _take_value(list(argv), "--write")
    flags = {a for a in argv if a in ("--no-job", "--json", "--help", "-h")}
    argv = [a for a in argv if a not in flags]
    if flags & {"--help", "-h"}:
        print(__doc__)
        return 0
    if not any(a.startswith("cluster=") for a in argv) and shutil.which("sinfo"):
        argv = ["cluster=local", "cluster.kind=slurm", "cluster.name=this cluster", *argv]
    config = load(argv)
    target = _preset_path(name) if name else None
    findings = []
    for finding in examine(config, with_job="--no-job" not in flags, write_to=target):
        findings.append(finding)
        if "--json" not in flags:
            print(shown(finding), flush=True)
    if "--json" in flags:
        print(json.dumps([dataclasses.asdict(f) | {"ok": f.ok} for f in findings]))
    return 0 if all(f.ok for f in findings) else 1


def shown(finding: Finding) -> str:
    advice = f"\n       {finding.advice}" if finding.advice else ""
    return f"{'ok' if finding.ok else 'WRONG':5}  {finding.what:14}  {finding.text}{advice}"


def examine(config: Config, with_job: bool, write_to: Path | None = None) -> Iterator[Finding]:
    """All findings, each as soon as it is known."""
    root = Path(config.run.root).resolve()
    if config.cluster.kind == "local":
        yield from _local(config)
        return
    conf = slurm_conf(config)
    try:
        found = look(config, conf)
    except scheduler.Unreachable as error:
        hint = f"start it with {config.cluster.source} up" if config.cluster.name == "devcluster" else (
            "ask on a login node of the cluster, with its Slurm commands on the PATH"
        )  # fmt: skip
        yield Finding("Slurm", f"does not answer: {error}", hint)
        return
    yield Finding("Slurm", f"{found.config.get('SLURM_VERSION')}, cluster {found.config.get('ClusterName')}")
    yield from judge(config, found)
    try:
        make_private(root)
    except UserError as error:
        yield Finding("run folder", str(error), "give run.root=FOLDER on storage that all nodes share")
        return
    if with_job and found.partition is not None:
        yield from _job(config, conf, root, two_nodes=len(found.nodes) > 1)
    if write_to:
        write_to.write_text(preset(write_to.stem, config, found))
        yield Finding("preset", f"{write_to}; use it as cluster={write_to.stem}")


def look(config: Config, conf: str | None) -> Site:
    """Ask Slurm. Raises Unreachable."""
    settings = site.parse_config(scheduler.run(["scontrol", "show", "config"], conf))
    partitions = site.parse_partitions(scheduler.run(["scontrol", "--oneliner", "show", "partition"], conf))
    wanted = config.cluster.partition
    partition = next((p for p in partitions if (p.name == wanted if wanted else p.default)), None)
    nodes = site.parse_nodes(scheduler.run(["scontrol", "--oneliner", "show", "node"], conf))
    associations = None
    if "slurmdbd" in settings.get("AccountingStorageType", ""):
        query = ["sacctmgr", "--noheader", "--parsable2", "show", "assoc", f"user={_user()}"]
        try:
            text = scheduler.run([*query, "format=account,partition,maxjobs,maxsubmit"], conf)
            associations = site.parse_associations(text)
        except scheduler.Unreachable:
            pass
    return Site(
        settings,
        partition,
        [n for n in nodes if partition is not None and partition.name in n.partitions],
        site.parse_mpi(_mpi_list(conf)),
        associations,
    )


def judge(config: Config, found: Site) -> Iterator[Finding]:
    """The preset beside what Slurm says. Pure."""
    cluster, settings = config.cluster, found.config
    yield _judge_partition(config, found)
    if found.node is not None:
        yield _judge_nodes(config, found, found.node)
    fits = cluster.mpi is None or cluster.mpi in found.mpi
    yield Finding(
        "MPI", f"srun --mpi={cluster.mpi}; Slurm has {', '.join(found.mpi)}",
        "" if fits else f"set cluster.mpi={site.choose_mpi(found.mpi)}",
    )  # fmt: skip
    yield _judge_accounting(config, found)
    yield Finding(
        "limits", f"MaxArraySize {settings.get('MaxArraySize')}, MaxJobCount {settings.get('MaxJobCount')}"
        + "".join(f", {a.account}: {a.max_submit} jobs submitted" for a in found.associations or [] if a.max_submit),
    )  # fmt: skip
    requeue = settings.get("JobRequeue") == "1"
    after = "jobs are put back by Slurm" if cluster.requeue else "the run submits its next job itself"
    yield Finding("requeue", f"JobRequeue {'on' if requeue else 'off, asked for by each job'}; {after}")
    yield _judge_preemption(found)


def _judge_partition(config: Config, found: Site) -> Finding:
    cluster, partition = config.cluster, found.partition
    if partition is None:
        wanted = f"there is no {cluster.partition}" if cluster.partition else "none is the default"
        return Finding("partition", wanted, "set cluster.partition=NAME; `sinfo -s` lists them")
    limit = f"{partition.max_time_min} min" if partition.max_time_min else "no time limit"
    text = f"{partition.name}: {len(found.nodes)} nodes, {limit}, {partition.max_nodes} nodes a job"
    if not partition.up:
        return Finding(
            "partition", f"{text}; it is down", "choose another with cluster.partition=NAME, or wait"
        )
    if partition.max_time_min and (cluster.max_time_min or 0) > partition.max_time_min:
        return Finding(
            "partition", f"{text}; the preset says {cluster.max_time_min}",
            f"set cluster.max_time_min={partition.max_time_min}",
        )  # fmt: skip
    return Finding("partition", text)


def _judge_nodes(config: Config, found: Site, node: site.Node) -> Finding:
    cluster = config.cluster
    usable = [n for n in found.nodes if n.state in ("IDLE", "MIXED", "ALLOCATED", "COMPLETING", "PLANNED")]
    text = f"{node.cpus} CPUs, {node.gpus} GPUs, {node.memory_mb / 1024:.0f} GB each; {len(usable)} in use or free"
    for key, says, has in (
        ("gpus_per_node", cluster.gpus_per_node, node.gpus),
        ("cpus_per_node", cluster.cpus_per_node, node.cpus),
        ("mem_gb_per_node", cluster.mem_gb_per_node, node.memory_mb / 1024),
    ):
        if says and says > has:
            return Finding("nodes", f"{text}; the preset says {key}={says}", f"set cluster.{key}={has:g}")
    return Finding(
        "nodes", text, "" if usable else "no node can take a job now; `sinfo --list-reasons` says why"
    )


def _judge_accounting(config: Config, found: Site) -> Finding:
    account = config.cluster.account
    if "slurmdbd" not in found.config.get("AccountingStorageType", ""):
        return Finding("accounting", "off: status does without sacct")
    if found.associations is None:
        return Finding(
            "accounting", "on, but sacctmgr does not answer; status does without", "tell the site's admins"
        )
    names = sorted({a.account for a in found.associations})
    if account and names and account not in names:
        return Finding(
            "accounting", f"account {account} is not yours", f"set cluster.account to {' or '.join(names)}"
        )
    needed = next((n for n in config.cluster.needs if not getattr(config.cluster, n)), None)
    if needed:
        return Finding(
            "accounting",
            f"this cluster asks for {needed}",
            f"give cluster.{needed}=NAME ({', '.join(names)})",
        )
    return Finding("accounting", f"on; your accounts: {', '.join(names) or 'not said'}")


def _judge_preemption(found: Site) -> Finding:
    settings, partition = found.config, found.partition
    wait = settings.get("KillWait", "30 sec")
    if settings.get("PreemptType", "preempt/none") == "preempt/none" or not (
        partition and partition.preempted
    ):
        return Finding("preemption", f"none of jobs in this partition; KillWait {wait}")
    signal = (
        "the job's own signal" if "send_user_signal" in settings.get("PreemptParameters", "") else "SIGTERM"
    )
    grace = f"{partition.grace_s} s to save" if partition.grace_s else f"KillWait ({wait}) alone to save"
    return Finding("preemption", f"by {settings.get('PreemptMode')}: {signal}, then {grace}")


def preset(name: str, config: Config, found: Site) -> str:
    """What was found, as a file for conf/cluster."""
    import yaml

    cluster, partition, node = config.cluster, found.partition, found.node
    accounts = {a.account for a in found.associations or []}
    facts = {
        "name": name,
        "kind": "slurm",
        "partition": partition and partition.name,
        "account": cluster.account or (accounts.pop() if len(accounts) == 1 else None),
        "gpus_per_node": (node and node.gpus) or None,
        "cpus_per_node": node and node.cpus,
        "cpus_per_gpu": node.cpus // node.gpus if node and node.gpus else None,
        "mem_gb_per_node": node and round(node.memory_mb / 1024, 1),
        "max_time_min": partition and partition.max_time_min,
        "max_nodes": partition and partition.max_nodes,
        "mpi": cluster.mpi if cluster.mpi in found.mpi else site.choose_mpi(found.mpi),
        "slurm_conf": cluster.slurm_conf,
        "source": f"hpctrain doctor on {found.config.get('ClusterName')}, Slurm {found.config.get('SLURM_VERSION')}",
        "source_date": time.strftime("%Y-%m-%d"),
    }
    given = {key: value for key, value in facts.items() if value is not None}
    return f"# Written by hpctrain doctor.\n{yaml.safe_dump(given, sort_keys=False)}"


def _preset_path(name: str) -> Path:
    from hpctrain.compose import conf_dir, groups

    if not name.replace("_", "").isalnum():
        raise UserError("--write", name, "must be letters, digits and _ only")
    if name in groups()["cluster"]:
        raise UserError("--write", name, "is there already; choose another name, or remove it first")
    return conf_dir() / "cluster" / f"{name}.yaml"


def _local(config: Config) -> Iterator[Finding]:
    """This machine, without Slurm."""
    import importlib.util

    from hpctrain.launch.local import gpu_count

    try:
        make_private(Path(config.run.root).resolve())
        yield Finding("run folder", f"{Path(config.run.root).resolve()} can be written to")
    except UserError as error:
        yield Finding("run folder", str(error), "give run.root=FOLDER that you can write to")
    built = importlib.util.find_spec("horovod") is not None
    yield Finding(
        "Horovod", "installed" if built else "is missing", "" if built else "run slurm/build_horovod"
    )
    mpi = shutil.which("mpirun")
    yield Finding("mpirun", mpi or "is not on the PATH: several ranks use Gloo")
    yield Finding(
        "GPUs", f"{gpu_count()} of NVIDIA; one rank each" if gpu_count() else "none: ranks use the CPU"
    )


def _job(config: Config, conf: str | None, root: Path, two_nodes: bool) -> Iterator[Finding]:
    """Two ranks as a real job; what each of them saw."""
    folder = Path(tempfile.mkdtemp(dir=root, prefix=".doctor."))
    try:
        script = _write_script(config, folder, two_nodes)
        job_id = scheduler.run(["sbatch", "--parsable", str(script)], conf).split(";")[0].strip()
    except scheduler.Unreachable as error:
        shutil.rmtree(folder)
        yield Finding(
            "job", f"sbatch says: {error}", "see cluster.account, cluster.qos, cluster.partition and the like"
        )
        return
    try:
        end = _await(job_id, conf)
        ranks = [f for f in (read_json(folder / f"rank_{r}.json") for r in (0, 1)) if f]
        yield from _judge_job(job_id, end, ranks, folder)
    finally:
        with contextlib.suppress(scheduler.Unreachable):
            scheduler.cancel([job_id], conf)
        shutil.rmtree(folder, ignore_errors=True)


def _write_script(config: Config, folder: Path, two_nodes: bool) -> Path:
    """The job's script: as a run's is, with another command."""
    from submitit.slurm.slurm import _make_sbatch_string

    resources = dataclasses.replace(
        config.resources, nodes=2 if two_nodes else 1, gpus_per_node=1 if two_nodes else 2, timeout_min=5
    )
    small = dataclasses.replace(config, resources=resources)
    python = slurm.python_command(small, sys.executable)
    parameters = slurm.sbatch_parameters(small, folder, python, "hpctrain:doctor")
    parameters = {key: value for key, value in parameters.items() if key != "teardown"}
    command = f"{python} -m hpctrain.launch.doctor_job {shlex.quote(str(folder))} 2"
    script = folder / "job.sbatch"
    (folder / "submitit").mkdir()
    script.write_text(_make_sbatch_string(command=command, folder=folder, **parameters))
    return script


def _await(job_id: str, conf: str | None) -> slurm.Job | None:
    """The job once it has ended, or as it is after JOB_PATIENCE_S; None: Slurm has forgotten it."""
    end_s = time.monotonic() + JOB_PATIENCE_S
    while True:
        try:
            job = scheduler.queue(conf).get(job_id)
        except scheduler.Unreachable:
            job = slurm.Job(job_id, "PENDING", "Slurm does not answer")
        if job is None or job.state in slurm.ENDED or time.monotonic() > end_s:
            return job
        time.sleep(0.5)


def _judge_job(
    job_id: str, end: slurm.Job | None, ranks: list[dict[str, Any]], folder: Path
) -> Iterator[Finding]:
    state = end.state if end else "gone"
    if state in slurm.WAITING:
        yield Finding("job", f"{job_id} waits for {JOB_PATIENCE_S:.0f} s already: {end.reason if end else ''}",
                      "try again when nodes are free, or with --no-job")  # fmt: skip
        return
    errors = [f"rank {r['rank']} on {r['host']}: {r['error']}" for r in ranks if "error" in r]
    if errors or len(ranks) < 2:
        logs = "".join(p.read_text(errors="replace") for p in sorted(folder.glob("*.out")))
        said = (
            errors[0]
            if errors
            else " ".join(logs.split()[-40:]) or f"{len(ranks)} of 2 ranks answered ({state})"
        )
        yield Finding(
            "job", said, "compare cluster.mpi, cluster.modules and cluster.python with the line MPI above"
        )
        return
    hosts = ", ".join(r["host"] for r in ranks)
    yield Finding(
        "job", f"{job_id}: 2 ranks on {hosts}, Python {ranks[0]['python']}, torch {ranks[0]['torch']}"
    )
    storage = next((r["storage"] for r in ranks if r["storage"] != "ok"), None)
    seen = storage or "seen from the nodes; rename, fsync, link and lock work"
    advice = "give run.root=FOLDER on storage that all nodes share" if storage else ""
    yield Finding("storage", f"{folder.parent}: {seen}", advice)
    built = [name for name, there in ranks[0]["horovod"].items() if there]
    took_ms = max(r["allreduce_ms"] for r in ranks)
    text = f"Horovod over {ranks[0]['transport']} ({', '.join(built)} built): 4 MB in {took_ms:.1f} ms"
    right = all(r["sum"] == 3.0 for r in ranks)
    yield Finding("allreduce", text, "" if right else "the sum is wrong: build Horovod anew on a node")
    given = ", ".join(r["visible_gpus"] or "none" for r in ranks)
    on_gpu = all(r["device"] != "cpu" for r in ranks)
    where = f"on {ranks[0]['device']}" if on_gpu else "on the CPU: torch sees no GPU"
    advice = (
        "build Horovod with NCCL: slurm/build_horovod on a GPU node" if on_gpu and "nccl" not in built else ""
    )
    yield Finding("GPU", f"ranks compute {where}; Slurm gave {given}", advice)


def _mpi_list(conf: str | None) -> str:
    import os

    env = os.environ | ({"SLURM_CONF": conf} if conf else {})
    done = subprocess.run(["srun", "--mpi=list"], capture_output=True, text=True, env=env, check=False)
    return done.stdout + done.stderr  # Slurm writes the list to either


def _user() -> str:
    import getpass

    return getpass.getuser()


def _take_value(argv: list[str], flag: str) -> tuple[list[str], str | None]:
    """`flag VALUE` or `flag=VALUE` taken out of a command line."""
    for i, word in enumerate(argv):
        if word == flag:
            if i + 1 == len(argv):
                raise UserError(flag, "", "needs a name")
            return argv[:i] + argv[i + 2 :], argv[i + 1]
        if word.startswith(f"{flag}="):
            return argv[:i] + argv[i + 1 :], word.removeprefix(f"{flag}=")
    return argv, None
