"""The settings of a development cluster: the options of `up`, and the configuration files made from them.

Takes the options as a dictionary and the cluster's folder, returns file contents, addresses and command lines.
Only `write_files` writes, into that folder. Bad values raise ValueError with one line to show.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import stat
from pathlib import Path
from typing import Any

NETWORK = "198.18"  # set aside for tests of networks (RFC 2544): in use almost nowhere
PATH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
PORTS = {"slurmctld": 6817, "slurmd": 6818, "slurmdbd": 6819}
FOLDER_LENGTH = 72  # a socket's path may have 107 characters, and PMIx makes one below a node's folder


def add_options(up: argparse.ArgumentParser) -> None:
    """Adds the options of `up`. All other settings of Slurm are given by --conf KEY=VALUE."""

    def number(name: str, default: int, text: str, low: int = 0, high: int = 10**6) -> None:
        def bounded(value: str) -> int:
            if not re.fullmatch(r"[0-9]{1,9}", value) or not low <= int(value) <= high:
                raise argparse.ArgumentTypeError(f"{value}: must be a whole number from {low} to {high}")
            return int(value)

        up.add_argument(
            f"--{name}", type=bounded, default=default, metavar="N", help=f"{text} (default: {default})"
        )

    number("nodes", 4, "nodes", 1, 64)
    number("gpus", 4, "fake GPUs per node", 0, 64)
    number("cpus", 4, "CPUs per node, whatever the machine has", 1, 1024)
    number("memory-mb", 16000, "memory per node that Slurm divides among jobs, not enforced", 64, 10**8)
    number("max-time-min", 60, "time limit of both partitions", 1)
    number("max-array-size", 1001, "MaxArraySize", 2)
    number("grace-s", 0, "GraceTime of partition low: from the signal to the end of a preempted job")
    number("requeue-delay-s", 8, "least time that a requeued job waits (Slurm's own: 120)", 5)
    number("kill-wait-s", 5, "KillWait: from SIGTERM to SIGKILL at the time limit")
    number("min-job-age-s", 300, "MinJobAge: how long slurmctld remembers a finished job", 2)
    number("slurmd-timeout-s", 30, "SlurmdTimeout: a node that is silent for so long is down", 2)
    up.add_argument("--send-user-signal", action="store_true", help="preemption sends the job's own --signal")
    up.add_argument(
        "--no-accounting", dest="accounting", action="store_false", help="no slurmdbd, so no sacct"
    )
    up.add_argument("--requeue", action=argparse.BooleanOptionalAction, default=True, help="JobRequeue")
    up.add_argument("--conf", action="append", default=[], metavar="KEY=VALUE", help="any line of slurm.conf")


def options(arguments: argparse.Namespace) -> dict[str, Any]:
    chosen = {key: value for key, value in vars(arguments).items() if key not in ("command", "name", "dir")}
    for line in arguments.conf:
        if not re.fullmatch(r"\w+=[^\n]*", line):
            raise ValueError(f"--conf {line!r}: must be KEY=VALUE")
    return chosen


def check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,29}", name):
        raise ValueError(f"--name {name!r}: must be a lower-case letter, then at most 29 of a-z 0-9 _")


def check_folder(folder: Path) -> None:
    if not re.fullmatch(r"[\w/.@+-]+", str(folder), re.ASCII) or len(str(folder)) > FOLDER_LENGTH:
        raise ValueError(
            f"--dir {str(folder)!r}: must be at most {FOLDER_LENGTH} characters of A-Z a-z 0-9 _/.@+-"
        )


def mark(folder: Path, node: str = "") -> str:
    """Returns the source of a mount that every process of the node sees, which identifies its cluster."""
    return f"hpctrain-devcluster:{folder}{'/' if node else ''}{node}"


def environment(folder: Path) -> dict[str, str]:
    """Returns the environment of the daemons and of the clients that `devcluster` itself calls."""
    conf, database = f"{folder}/slurm.conf", f"{folder}/mysql.socket"
    return {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "SLURM_CONF": conf, "MYSQL_UNIX_PORT": database}


def address(options: dict[str, Any], node: str) -> str:
    last = {"head": 1, "login": 254}.get(node) or 10 + int(node.removeprefix("node"))
    return f"{options['subnet']}.{last}"


def rate_bytes_per_s(rate: str) -> float:
    """Returns the bytes per second of a rate as tc writes it: 1gbit, 100mbit, 2.5gbit, with decimal prefixes."""
    parts = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)([kmg]bit)", rate)
    if not parts or not float(parts[1]):
        raise ValueError(f"--rate {rate!r}: must be a positive number and kbit, mbit or gbit, such as 1gbit")
    return float(parts[1]) * {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}[parts[2]] / 8


def command_line(folder: Path, daemon: str, node: str) -> list[str]:
    if daemon == "munged":  # --force: the way to the socket is closed to other users, by intent
        names = {"socket": "socket", "key-file": "key", "pid-file": "pid", "seed-file": "seed"}
        paths = [f"--{option}={folder}/munge/{name}" for option, name in names.items()]
        return ["munged", "--foreground", "--force", "--num-threads=2", *paths]
    if daemon == "mariadbd":
        paths = [
            f"--datadir={folder}/mysql",
            f"--socket={folder}/mysql.socket",
            f"--pid-file={folder}/mysql.pid",
        ]
        small = [
            "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=16M",
            "--innodb-lock-wait-timeout=900",
        ]
        return ["mariadbd", "--no-defaults", "--user=root", "--skip-networking", *paths, *small]
    if daemon == "slurmd":
        return ["slurmd", "-f", f"{folder}/slurm.conf", "-N", node]
    return [daemon]


def make_database(folder: Path) -> list[str]:
    new = [
        "mariadb-install-db",
        "--no-defaults",
        "--user=root",
        "--skip-test-db",
        f"--datadir={folder}/mysql",
    ]
    return [*new, "--innodb-log-file-size=16M"]


def account_commands(name: str) -> list[list[str]]:
    """Returns the commands that make the account `devel`, root's default. Jobs under another account are refused."""
    sacctmgr = ["sacctmgr", "--immediate", "--quiet"]
    return [
        [*sacctmgr, "add", "cluster", name],
        [*sacctmgr, "add", "account", "devel", f"cluster={name}"],
        [*sacctmgr, "add", "user", "root", "account=devel", f"cluster={name}"],
        [*sacctmgr, "modify", "user", "root", "set", "defaultaccount=devel"],
    ]


def listens_at(folder: Path, options: dict[str, Any], daemon: str, node: str) -> tuple[int, Any]:
    """Returns socket family and address."""
    if daemon in PORTS:
        return socket.AF_INET, (address(options, node), PORTS[daemon])
    return socket.AF_UNIX, str(folder / {"munged": "munge/socket", "mariadbd": "mysql.socket"}[daemon])


def write_files(folder: Path, name: str, options: dict[str, Any]) -> None:
    """Writes all files that the daemons read, and the fake GPUs: device files without hardware."""
    nodes = [f"node{i}" for i in range(1, options["nodes"] + 1)]
    for part in ("log", "gpu", "state", "munge"):
        (folder / part).mkdir()
    for i in range(options["gpus"]):
        os.mknod(folder / "gpu" / f"nvidia{i}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))  # /dev/null's
    names = ["head", *nodes, "login"]
    hosts = ["127.0.0.1 localhost", *(f"{address(options, n)} {n}" for n in names)]
    if socket.gethostname() not in names:
        hosts[-1] += f" {socket.gethostname()}"
    files = {
        "hosts": "\n".join(hosts) + "\n",
        "slurm.conf": slurm_conf(folder, name, options, nodes),
        "slurmdbd.conf": slurmdbd_conf(folder),
        "gres.conf": f"Name=gpu File={folder}/gpu/nvidia[0-{options['gpus'] - 1}]\n"
        if options["gpus"]
        else "",
        "cgroup.conf": "CgroupPlugin=cgroup/v1\n",  # none is used; 22.05 knows no way to say so
    }
    for file, text in files.items():
        (folder / file).write_text(text)
    key = os.open(folder / "munge" / "key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(key, os.urandom(1024))
    os.close(key)
    (folder / "slurmdbd.conf").chmod(0o600)


def slurm_conf(folder: Path, name: str, options: dict[str, Any], nodes: list[str]) -> str:
    settings: dict[str, Any] = {
        "ClusterName": name,
        "SlurmctldHost": f"head({address(options, 'head')})",
        "SlurmUser": "root",
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={folder}/munge/socket,cred_expire={options['requeue_delay_s']}",
        "StateSaveLocation": f"{folder}/state",
        "SlurmctldPidFile": f"{folder}/slurmctld.pid",
        "SlurmctldLogFile": f"{folder}/log/slurmctld-head.log",
        "SlurmdSpoolDir": f"{folder}/%n/spool",
        "SlurmdPidFile": f"{folder}/%n/slurmd.pid",
        "SlurmdLogFile": f"{folder}/log/slurmd-%n.log",
        "TmpFS": f"{folder}/%n",  # else the folders of PMIx of several nodes are one
        "MailProg": "/bin/true",
        "MpiDefault": "pmix",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU_Memory",
        "DefMemPerCPU": options["memory_mb"] // options["cpus"],
        "SlurmdParameters": "config_overrides",  # the nodes have what is said here, not what the machine has
        "SchedulerParameters": "batch_sched_delay=0,sched_interval=2,bf_interval=1",
        "ReturnToService": 2,
        "EnforcePartLimits": "ALL",  # what no partition allows is refused at once
        "JobRequeue": int(options["requeue"]),
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "MaxArraySize": options["max_array_size"],
        "KillWait": options["kill_wait_s"],
        "MinJobAge": options["min_job_age_s"],
        "SlurmdTimeout": options["slurmd_timeout_s"],
    }
    if options["send_user_signal"]:
        settings["SlurmctldParameters"] = "preempt_send_user_signal"
    if options["accounting"]:
        settings["AccountingStorageType"] = "accounting_storage/slurmdbd"
        settings["AccountingStorageHost"] = address(options, "head")
        settings["AccountingStoragePass"] = f"socket={folder}/munge/socket"
        settings["AccountingStorageEnforce"] = "associations,limits,qos"
        settings["JobAcctGatherType"] = "jobacct_gather/linux"
        settings["JobAcctGatherFrequency"] = 5
        if options["gpus"]:
            settings["AccountingStorageTRES"] = "gres/gpu"
    node = f"CPUs={options['cpus']} RealMemory={options['memory_mb']}"
    if options["gpus"]:
        settings["GresTypes"] = "gpu"
        node += f" Gres=gpu:{options['gpus']}"
    settings |= dict(line.split("=", 1) for line in options["conf"])
    limits = f"Nodes=ALL State=UP MaxTime={options['max_time_min']}"
    lines = [
        *(f"{key}={value}" for key, value in settings.items()),
        *(f"NodeName={n} NodeAddr={address(options, n)} {node} State=UNKNOWN" for n in nodes),
        f"PartitionName=low Default=YES PriorityTier=1 GraceTime={options['grace_s']} {limits}",
        f"PartitionName=high PriorityTier=10 PreemptMode=OFF {limits}",
    ]
    return "\n".join(lines) + "\n"


def slurmdbd_conf(folder: Path) -> str:
    return f"""AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost=head
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
PidFile={folder}/slurmdbd.pid
LogFile={folder}/log/slurmdbd-head.log
"""
