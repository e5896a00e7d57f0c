"""Compares a cluster with its preset: pure judgement of what Slurm and a job of two ranks said.

Takes a configuration and parsed answers (scheduler/site.py); returns findings: each is ok or says what to do.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpctrain.config.settings import Config
from hpctrain.launch.doctor.job import Seen
from hpctrain.scheduler import answers, site


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's answer. `advice` is empty if nothing is wrong."""

    what: str
    text: str
    advice: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
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


def judge(config: Config, slurm: Site) -> Iterator[Finding]:
    """Yields the findings from a comparison of the preset with what Slurm says. Pure."""
    cluster, settings = config.cluster, slurm.config
    yield _judge_partition(config, slurm)
    if slurm.node is not None:
        yield _judge_nodes(config, slurm, slurm.node)
    fits = cluster.mpi is None or cluster.mpi in slurm.mpi
    yield Finding(
        "MPI", f"srun --mpi={cluster.mpi}; Slurm has {', '.join(slurm.mpi)}",
        "" if fits else f"set cluster.mpi={site.choose_mpi(slurm.mpi)}",
    )  # fmt: skip
    yield _judge_accounting(config, slurm)
    yield Finding(
        "limits", f"MaxArraySize {settings.get('MaxArraySize')}, MaxJobCount {settings.get('MaxJobCount')}"
        + "".join(f", {a.account}: {a.max_submit} jobs submitted" for a in slurm.associations or [] if a.max_submit),
    )  # fmt: skip
    requeue = settings.get("JobRequeue") == "1"
    after = "jobs are put back by Slurm" if cluster.requeue else "the run submits its next job itself"
    yield Finding("requeue", f"JobRequeue {'on' if requeue else 'off, asked for by each job'}; {after}")
    yield _judge_preemption(slurm)


def _judge_partition(config: Config, slurm: Site) -> Finding:
    cluster, partition = config.cluster, slurm.partition
    if partition is None:
        wanted = f"there is no {cluster.partition}" if cluster.partition else "none is the default"
        return Finding("partition", wanted, "set cluster.partition=NAME; `sinfo -s` lists them")
    limit = f"{partition.max_time_min} min" if partition.max_time_min else "no time limit"
    text = f"{partition.name}: {len(slurm.nodes)} nodes, {limit}, {partition.max_nodes} nodes per job"
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


def _judge_nodes(config: Config, slurm: Site, node: site.Node) -> Finding:
    cluster = config.cluster
    usable = [n for n in slurm.nodes if n.state in ("IDLE", "MIXED", "ALLOCATED", "COMPLETING", "PLANNED")]
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


def _judge_accounting(config: Config, slurm: Site) -> Finding:
    account = config.cluster.account
    if "slurmdbd" not in slurm.config.get("AccountingStorageType", ""):
        return Finding("accounting", "off: status works without sacct")
    if slurm.associations is None:
        return Finding(
            "accounting",
            "on, but sacctmgr does not answer; status works without it",
            "tell the site's admins",
        )
    names = sorted({a.account for a in slurm.associations})
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


def _judge_preemption(slurm: Site) -> Finding:
    settings, partition = slurm.config, slurm.partition
    wait = settings.get("KillWait", "30 sec")
    if settings.get("PreemptType", "preempt/none") == "preempt/none" or not (
        partition and partition.preempted
    ):
        return Finding("preemption", f"jobs in this partition are not preempted; KillWait {wait}")
    # Newer versions of Slurm have the first, older ones the second.
    told = settings.get("PreemptParameters", "") + settings.get("SlurmctldParameters", "")
    signal = "the job's own signal" if "send_user_signal" in told else "SIGTERM"
    grace = f"{partition.grace_s} s to save" if partition.grace_s else f"KillWait ({wait}) alone to save"
    return Finding("preemption", f"by {settings.get('PreemptMode')}: {signal}, then {grace}")


def preset(name: str, config: Config, slurm: Site) -> str:
    """Returns what Slurm says of the cluster, as a file for conf/cluster."""
    import yaml

    cluster, partition, node = config.cluster, slurm.partition, slurm.node
    accounts = {a.account for a in slurm.associations or []}
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
        "mpi": cluster.mpi if cluster.mpi in slurm.mpi else site.choose_mpi(slurm.mpi),
        "slurm_conf": cluster.slurm_conf,
        "source": f"hpctrain doctor on {slurm.config.get('ClusterName')}, Slurm {slurm.config.get('SLURM_VERSION')}",
        "source_date": time.strftime("%Y-%m-%d"),
    }
    given = {key: value for key, value in facts.items() if value is not None}
    return f"# Written by hpctrain doctor.\n{yaml.safe_dump(given, sort_keys=False)}"


def judge_job(job_id: str, end: answers.Job | None, ranks: list[Seen], folder: Path) -> Iterator[Finding]:
    """Yields the findings from the job's end and from what its ranks wrote below `folder`."""
    if end is not None and end.state in answers.WAITING:
        yield Finding("job", f"{job_id} waits for longer than the doctor does: {end.reason}",
                      "try again when nodes are free, or with --no-job")  # fmt: skip
        return
    errors = [f"rank {r['rank']} on {r['host']}: {r['error']}" for r in ranks if "error" in r]
    if errors or len(ranks) < 2:
        logs = "".join(p.read_text(errors="replace") for p in sorted(folder.glob("submitit/*.out")))
        state = end.state if end else "gone"
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
    built = ranks[0]["built"]
    took_ms = max(r["allreduce_ms"] for r in ranks)
    text = f"Horovod over {ranks[0]['transport']} ({', '.join(built)} built): 4 MB in {took_ms:.1f} ms"
    right = all(r["sum"] == 3.0 for r in ranks)
    yield Finding("allreduce", text, "" if right else "the sum is wrong: build Horovod again on a node")
    given = ", ".join(r["visible_gpus"] or "none" for r in ranks)
    on_gpu = all(r["device"] != "cpu" for r in ranks)
    where = f"on {ranks[0]['device']}" if on_gpu else "on the CPU: torch sees no GPU"
    advice = (
        "build Horovod with NCCL: slurm/build_horovod on a GPU node" if on_gpu and "nccl" not in built else ""
    )
    yield Finding("GPU", f"ranks compute {where}; Slurm gave {given}", advice)
