"""The origin of a run's figures: code, versions, machine. Secrets are left out."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch

import hpctrain
from hpctrain import job_environment
from hpctrain.shown import without_secrets
from hpctrain.storage.json_files import replace_text
from hpctrain.storage.run_dir import RunDir
from hpctrain.training.comm import Comm

PACKAGES = ("torch", "horovod", "mpi4py", "numpy", "submitit", "hydra-core", "safetensors")


def write_provenance(run: RunDir, comm: Comm) -> None:
    """Write provenance.json; each attempt replaces it."""
    facts = {
        "hpctrain": hpctrain.__version__,
        "git": git_state(Path(hpctrain.__file__).parent),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "modules": os.environ.get("LOADEDMODULES", "").split(":"),
        "command": without_secrets(os.environ.get("HPCTRAIN_COMMAND") or " ".join(sys.argv)),
        "host": socket.gethostname(),
        "slurm_job": job_environment.read().job_id,
        "cpu": _cpu_name(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "ranks": comm.size,
        "transport": comm.transport,
        "time": time.time(),
    }
    replace_text(run.provenance_file, json.dumps(facts, indent=1))


def git_state(folder: Path) -> dict[str, str | None] | None:
    """Returns the commit and a hash of the differences from it; None outside a checkout."""

    def git(*args: str) -> str:
        command = ["git", "-C", str(folder), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout

    try:
        commit, diff = git("rev-parse", "HEAD").strip(), git("diff", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "diff": hashlib.sha256(diff.encode()).hexdigest() if diff else None}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (x.partition(":")[2].strip() for x in lines if x.startswith("model name")), platform.machine()
    )
