"""Two jobs on one run directory: the second stops and names the first, which goes on undisturbed."""

import subprocess
import sys

import pytest

from tests.slurm.conftest import ROOT
from tests.waiting import until


@pytest.mark.long
def test_a_second_job_on_a_run_is_refused(cluster, run):
    job = run("train.steps=100000")
    first = job.submit()["job_id"]
    job.await_step(20)
    line = ["sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1", "-o/dev/null"]
    second = subprocess.run(
        [*line, ROOT / "slurm" / "train.sbatch", *job.settings], capture_output=True, text=True, check=True,
        env=cluster.environment | {"HPCTRAIN_PYTHON": sys.executable}, cwd=job.root.parent,
    ).stdout.strip()  # fmt: skip
    until(lambda: second not in cluster.call("squeue", "--noheader", "--format=%i"), "the second job's end")
    said = "\n".join(path.read_text() for path in job.path.glob("attempts/2/rank_*.log"))
    assert "RUN_LOCKED: attempt 1" in said, job.logs()
    assert f"Slurm job {first}" in said
    assert first in cluster.call("squeue", "--noheader", "--format=%i")
    assert job.state["attempt"] == 1
    before = job.state["step"]
    until(lambda: job.state["step"] > before, "the first to go on")
