"""Ranks on this machine: start them, pass signals on, say how they ended.

Takes a prepared run directory; starts mpirun (or horovodrun for Gloo, or one plain process). Side
effects: processes, and state.json if the ranks could not write it themselves. Imports no torch.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpctrain.config.settings import Config
from hpctrain.errors import UserError
from hpctrain.hardware import cpu_has_bf16, gpu_count
from hpctrain.launch.failure import settle
from hpctrain.scheduler.sbatch import START_MARK
from hpctrain.storage.last_word import EXIT_DISK_FULL
from hpctrain.storage.patience import patiently
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Reason, RunState

# How long ranks may take to save and stop, in seconds.
STOP_PATIENCE_S = 60.0


def check(config: Config) -> None:
    """Raises UserError if this machine lacks what `config` needs. Starts nothing."""
    ranks, resources = config.ranks, config.resources
    if config.cluster.kind != "local":
        raise UserError("cluster", config.cluster.name, "train runs on this machine; use hpctrain submit")
    if ranks > 1 and importlib.util.find_spec("horovod") is None:
        raise UserError("resources.ranks", ranks, "more than one rank needs Horovod: run slurm/build_horovod")
    if ranks > 1 and config.comm.transport == "mpi" and shutil.which("mpirun") is None:
        raise UserError(
            "comm.transport", "mpi", "needs mpirun on the PATH (Debian: openmpi-bin), or use gloo"
        )
    gpus = gpu_count()
    if resources.device == "cuda" and gpus == 0:
        raise UserError("resources.device", "cuda", "this machine has no NVIDIA GPU; allowed here: cpu, auto")
    if gpus and ranks > gpus and resources.device != "cpu":
        raise UserError(
            "resources.ranks", ranks, f"must be ≤ {gpus}, one rank per GPU (or resources.device=cpu)"
        )
    _check_precision(config, gpus if resources.device != "cpu" else 0)
    if ranks > 4 * (os.cpu_count() or 1):
        raise UserError("resources.ranks", ranks, f"must be ≤ {4 * (os.cpu_count() or 1)}, four per core")


def _check_precision(config: Config, gpus: int) -> None:
    """Number formats and compilers; of GPUs, only the ranks themselves know the formats."""
    if config.precision.name == "bf16" and not gpus and not cpu_has_bf16():
        raise UserError(
            "precision.name", "bf16", "this processor computes no bfloat16; allowed here: fp32, auto"
        )
    compiler = os.environ.get("CXX", "g++")
    if config.precision.compile and not gpus and shutil.which(compiler) is None:
        raise UserError(
            "precision.compile", "true", f"needs a C++ compiler, and {compiler} is not on the PATH"
        )
    if config.precision.compile and gpus and importlib.util.find_spec("triton") is None:
        raise UserError("precision.compile", "true", "needs the package triton for a GPU")


def command(run: RunDir, config: Config, token: str) -> list[str]:
    """Returns the command line that starts all ranks of an attempt."""
    worker = [sys.executable, "-m", "hpctrain.training.worker", str(run.path), token]
    ranks = config.ranks
    if ranks == 1:
        return worker
    if config.comm.transport == "mpi" or (config.comm.transport == "auto" and shutil.which("mpirun")):
        root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
        # More ranks than cores are the user's choice; ranks that wait must not spin on the others' cores.
        flags = ["--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]
        return ["mpirun", *root, "-np", str(ranks), *flags, *worker]
    horovodrun = str(Path(sys.executable).with_name("horovodrun"))
    return [horovodrun, "--gloo", "-np", str(ranks), "-H", f"localhost:{ranks}", *worker]


def start(run: RunDir, config: Config) -> subprocess.Popen[bytes]:
    """Starts all ranks in a session of their own: the terminal's Ctrl-C reaches us, not them. Returns the launcher."""
    run.cancel_file.unlink(missing_ok=True)
    token = f"local-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    run.state.starting(host=socket.gethostname(), pid=os.getpid())
    with (run.path / "launcher.log").open("ab", buffering=0) as log:
        log.write(f"{START_MARK}\n".encode())
        return subprocess.Popen(
            command(run, config, token),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
        )


def signal_ranks(run: RunDir, number: signal.Signals) -> int:
    """Sends a signal to each rank of the newest attempt that runs on this host; returns their number."""
    attempts = run.attempts()
    sent = 0
    for who in run.rank_files(attempts[-1]) if attempts else []:
        if who["host"] == socket.gethostname() and who["outcome"] == "running" and is_rank(who):
            os.kill(who["pid"], number)
            sent += 1
    return sent


def is_rank(who: Mapping[str, Any]) -> bool:
    """Returns whether the process that wrote this rank file still runs (and is not another with its number)."""
    try:
        command_line = Path(f"/proc/{who['pid']}/cmdline").read_bytes()
    except OSError:
        return False
    return b"hpctrain" in command_line or b"submitit" in command_line


def ask_to_stop(process: subprocess.Popen[bytes], run: RunDir, number: signal.Signals) -> None:
    """Asks the ranks to save and stop. If none runs yet, there is nothing to save: the launcher is ended."""
    if signal_ranks(run, number) == 0:
        process.terminate()


def kill(process: subprocess.Popen[bytes], run: RunDir) -> None:
    """Ends the launcher and the ranks at once (horovodrun puts ranks in process groups of their own)."""
    signal_ranks(run, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def finish(
    process: subprocess.Popen[bytes], run: RunDir, asked: str | None = None, before: int = 0
) -> RunState:
    """Waits for the ranks' end; returns the final state, written here if no rank was left to do it.

    `asked`: the reason for which the ranks were asked to stop. Ranks that ended without a word, or before they could
    stop in good order, ended for it. `before`: the newest attempt before this start.
    """
    code = process.wait()
    state = run.read_state()
    if state.final and (code != EXIT_DISK_FULL or state.reason == Reason.DISK_FULL):
        return state
    fresh = [number for number in run.attempts() if number > before]
    full = code == EXIT_DISK_FULL
    if asked and not full and not run.cancel_file.exists() and not (fresh and run.failure(fresh[-1])):
        return patiently(lambda: run.state.stopped(asked, in_slurm=False))
    log = run.path / "launcher.log"
    return settle(run, log.read_text(errors="replace") if log.exists() else "", before, code)
