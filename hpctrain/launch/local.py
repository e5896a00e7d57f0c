"""Ranks on this machine: starts them, passes signals on, and says how they ended.

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
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpctrain.config.settings import Config
from hpctrain.errors import UserError
from hpctrain.hardware import cpu_has_bf16, gpu_count
from hpctrain.job_environment import SAFE_PATH
from hpctrain.launch import launcher_logs
from hpctrain.launch.failure import explain, settle
from hpctrain.patience import Patience
from hpctrain.scheduler.sbatch import START_MARK
from hpctrain.storage import last_word
from hpctrain.storage.attempts import RUNNING, RankFile
from hpctrain.storage.full_disk import patiently
from hpctrain.storage.lock import lives
from hpctrain.storage.run_dir import RunDir
from hpctrain.storage.run_state import Phase, Reason, RunState, signal_for
from hpctrain.storage.succession import superseded

STOP_PATIENCE_S = 60.0  # ranks may take this long to save and stop
LOOK_S = 1.0  # between looks for a request to cancel


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
    """Raises UserError for a number format or compiler that is missing. Formats of GPUs are checked by the ranks."""
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
    worker = [sys.executable, "-P", "-m", "hpctrain.training.worker", str(run.path), token]
    ranks = config.ranks
    if ranks == 1:
        return worker
    if config.comm.transport == "mpi" or (config.comm.transport == "auto" and shutil.which("mpirun")):
        root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
        # The user may choose more ranks than cores; ranks that wait must not spin on the cores of others.
        flags = ["--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]
        return ["mpirun", *root, "-np", str(ranks), *flags, *worker]
    horovodrun = str(Path(sys.executable).with_name("horovodrun"))
    return [horovodrun, "--gloo", "-np", str(ranks), "-H", f"localhost:{ranks}", *worker]


class Ranks:
    """The ranks of one start on this machine, and the launcher that waits for them."""

    def __init__(self, run: RunDir, process: subprocess.Popen[bytes], token: str) -> None:
        self._run, self._process, self.token = run, process, token
        self._patience: Patience | None = None  # set when the ranks are asked to stop
        self._looked_s = 0.0
        self._killed = False

    def poll(self) -> int | None:
        """Returns the launcher's exit code, or None while it runs."""
        return self._process.poll()

    def signal(self, number: signal.Signals) -> int:
        """Sends a signal to each rank of this start that runs on this host; returns their number."""
        attempt = self._run.attempt_of(self.token)
        return 0 if attempt is None else signal_ranks(self._run, attempt, number)

    def ask_to_stop(self, reason: str = Reason.INTERRUPTED) -> None:
        """Asks the ranks to save and stop for `reason`; ends the launcher if none runs yet: nothing is to be saved."""
        if self.signal(signal_for(reason)) == 0:
            self._process.terminate()

    def kill(self) -> None:
        """Ends the launcher and the ranks at once (horovodrun puts ranks in process groups of their own)."""
        self._killed = True
        self.signal(signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def attend(self, asked: bool, at_once: bool = False) -> bool:
        """Asks the ranks to stop if `asked`, or if the run was cancelled from elsewhere. Call it repeatedly.

        Kills ranks that have not stopped after STOP_PATIENCE_S, or `at_once`. Returns whether this call asked them.
        """
        now_s = time.monotonic()
        if self._patience is None and not asked and now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            asked = self._run.cancel_file.exists()
        if asked and self._patience is None:
            self._patience = Patience(STOP_PATIENCE_S)
            self.ask_to_stop()
            return True
        if self._patience is not None and (at_once or self._patience.is_over()):
            self.kill()
        return False

    def finish(self, asked: str | None = None) -> RunState:
        """Waits until the ranks have ended; returns the final state, and writes it if no rank was left to do so.

        `asked` is the reason for which the ranks were asked to stop, None if they were not. It is the reason of the end
        also of ranks that were killed then or ended without a word. If another start has taken the run over, returns
        the state of this start alone and does not write it.
        """
        code = self._process.wait()
        run, attempt = self._run, self._run.attempt_of(self.token)
        state = run.read_state()
        own = state.final and attempt is not None and state.attempt == attempt
        unwritten = last_word.unwritten(code, state.reason)
        if own and not unwritten:
            return state
        if superseded(run, attempt, None):
            reason, detail, rank = explain(run, launcher_logs.text(run, None), attempt, code)
            return RunState(Phase.FAILED, reason, detail, rank, attempt)
        if state.final and attempt is None and state.phase == Phase.CANCELLED:
            return state
        failed = attempt is not None and run.failure(attempt) is not None and not self._killed
        if asked and not run.cancel_file.exists() and not failed and not unwritten:
            return patiently(lambda: run.state.stopped(asked, in_slurm=False))
        return settle(run, launcher_logs.text(run, None), attempt, code)


def start(run: RunDir, config: Config) -> Ranks:
    """Starts all ranks in a session of their own, which the terminal's Ctrl-C does not reach; returns them."""
    run.cancel_file.unlink(missing_ok=True)
    token = f"local-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    run.state.starting(host=socket.gethostname(), pid=os.getpid())
    with (run.path / "launcher.log").open("ab", buffering=0) as log:
        log.write(f"{START_MARK}\n".encode())
        process = subprocess.Popen(
            command(run, config, token),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | SAFE_PATH | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
        )
    return Ranks(run, process, token)


def living(run: RunDir) -> list[RankFile]:
    """Returns the ranks of the newest attempt that run on this host."""
    return [who for who in run.newest_ranks() if who["outcome"] == RUNNING and is_rank(who)]


def signal_ranks(run: RunDir, attempt: int, number: signal.Signals) -> int:
    """Sends a signal to each rank of an attempt that runs on this host; returns their number."""
    sent = 0
    for who in run.rank_files(attempt, own=True):
        if who["outcome"] == RUNNING and is_rank(who):
            with contextlib.suppress(ProcessLookupError):
                os.kill(who["pid"], number)
                sent += 1
    return sent


def is_rank(who: Mapping[str, Any]) -> bool:
    """Returns whether the process that wrote this rank file runs on this host, and not another of its number."""
    if who.get("host") != socket.gethostname() or "pid" not in who:
        return False
    if "started" in who and "boot" in who:
        return lives(who["boot"], who["pid"], who["started"]) is True
    try:  # of version 0.1.0
        command_line = Path(f"/proc/{who['pid']}/cmdline").read_bytes()
    except OSError:
        return False
    return b"hpctrain" in command_line or b"submitit" in command_line
