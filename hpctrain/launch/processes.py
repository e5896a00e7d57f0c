"""Starts a run of a study as processes of this job: forked, as a Slurm step, or by mpirun.

Takes a prepared run directory; returns a `Process`, which can be polled, stopped and killed. No other side effects.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import signal
import subprocess
import sys
import traceback
from typing import NoReturn, Protocol

from hpctrain import job_environment
from hpctrain.config.settings import Config
from hpctrain.launch import local
from hpctrain.scheduler import client
from hpctrain.scheduler.sbatch import EXPORT_ALL, START_MARK, cpus_per_rank, python_command
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Reason, signal_for

_PR_SET_PDEATHSIG = 1


class Process(Protocol):
    """All ranks of one start of a run; `token` names the start in the files of each rank."""

    token: str

    def poll(self) -> int | None:
        """Returns the exit code, or None while it runs."""

    def ask_to_stop(self, reason: str) -> None:
        """Asks it to save a checkpoint and end; `reason` is one of training/stop.py."""

    def kill(self) -> None:
        """Ends it at once."""


def start(run: RunDir, config: Config, name: str, slot: int, slots: int) -> Process:
    """Starts the run in `slot` of `slots`; returns its process. `name` is unique among the starts of this job."""
    place = job_environment.read()
    token = f"{place.start}.{name}"
    if config.ranks == 1:
        return Forked(run, token if place.in_job else f"local-{os.getpid()}.{name}", slot, slots)
    if config.cluster.kind == "local":
        return local.start(run, config)
    with (run.path / "launcher.log").open("ab", buffering=0) as log:
        log.write(f"{START_MARK}\n".encode())
        command = step_command(run, config, token)
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        return Step(run, process, token)


def step_command(run: RunDir, config: Config, token: str) -> list[str]:
    """Returns the command line of the Slurm step, inside this job, that starts all ranks of a run."""
    nodes, ranks = config.resources.nodes, config.ranks_per_node
    return [
        "srun", "--overlap", f"--nodes={nodes}", f"--ntasks={nodes * ranks}", f"--ntasks-per-node={ranks}",
        f"--cpus-per-task={cpus_per_rank(config)}", *([f"--mpi={config.cluster.mpi}"] if config.cluster.mpi else []),
        EXPORT_ALL, "--kill-on-bad-exit=1", *config.cluster.srun_args, "sh", "-c",
        f'exec {python_command(config, sys.executable)} -m hpctrain.launch.rank "$0" "$1"', str(run.path), token,
    ]  # fmt: skip


class Forked:
    """One rank, forked from this process: imports cost each job once, not each run."""

    def __init__(self, run: RunDir, token: str, slot: int, slots: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.token = token
        self._code: int | None = None
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _child(run, token, slot, slots, parent)

    def poll(self) -> int | None:
        """Returns the exit code, negative for a signal, or None while it runs."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def ask_to_stop(self, reason: str) -> None:
        """Sends the signal of `reason`, unless the process has ended."""
        if self._code is None:
            os.kill(self.pid, signal_for(reason))

    def kill(self) -> None:
        """Ends it at once."""
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


def preload() -> None:
    """Imports what every run needs, before the first is forked."""
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401

    import hpctrain.training.session  # noqa: F401

    # torch would import it with the first optimiser of each process, which takes most of the time of a short run.
    importlib.import_module("torch._dynamo")


def _child(run: RunDir, token: str, slot: int, slots: int, parent: int) -> NoReturn:
    code = 1
    try:
        # The kernel ends the run when this job's process ends, for whatever reason.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        _share(slot, slots)
        from hpctrain.training.worker import work

        code = work(run, token, client.has_ended)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _share(slot: int, slots: int) -> None:
    """Restricts this process to its slot's part of the job's GPUs and cores."""
    if slots == 1:
        return
    gpus = [g for g in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if g]
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) >= slots:
        os.sched_setaffinity(0, cores[slot::slots])


class Step(local.Ranks):
    """Several ranks as a step of this job, started by srun."""

    def ask_to_stop(self, reason: str = Reason.INTERRUPTED) -> None:
        """Sends the signal of `reason` to the ranks on this host, or through srun."""
        if self.signal(signal_for(reason)) == 0:
            # srun passes SIGUSR2 on to all ranks; its own Ctrl-C would abort them.
            self._process.send_signal(signal.SIGTERM if reason == Reason.TERMINATED else signal.SIGUSR2)
