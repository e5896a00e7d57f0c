"""A job's own look at its folders, on a real Slurm: what was right at submit may be wrong when the job begins."""

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.people import ALICE, BOB, PYTHON, ROOT, Person, alices_run
from tests.waiting import until

pytestmark = pytest.mark.slurm


def test_a_job_looks_before_it_loads_anything(cluster, run, tmp_path):
    job = run("+cluster.sbatch.begin=now+1hour", "resources.nodes=1", "train.steps=2")
    job_id = job.submit()["job_id"]
    code = job.path / "submitit" / "run.pkl"
    marker = tmp_path / "marker"
    code.write_bytes(b"cos\nsystem\n(S'touch " + bytes(marker) + b"'\ntR.")  # loading it makes the file
    job.path.chmod(0o770)
    cluster.call("scontrol", "update", f"JobId={job_id}", "StartTime=now")
    log = job.path / "submitit" / f"{job_id}_0_log.out"
    until(lambda: log.exists() and "the job is not run" in log.read_text(), "the job's refusal")
    until(lambda: not cluster.call("squeue", "--noheader", f"--jobs={job_id}", "--states=R,CG"), "its end")
    assert "mode 0770" in log.read_text()
    assert not marker.exists()
    assert not (job.path / "attempts").exists()
    assert "mode 0770" in job.status()["detail"]


LIBRARY = """
#include <stdio.h>
#include <unistd.h>
__attribute__((constructor)) static void begin(void) {
    FILE *file = fopen(MARKER, "a");
    if (file) { fprintf(file, "%d\\n", (int)geteuid()); fclose(file); }
}
"""


@pytest.fixture
def place():
    """A folder that everybody may enter, with no recording clients: Slurm's own are asked."""
    before = os.umask(0o022)
    folder = Path(tempfile.mkdtemp(prefix="library."))
    folder.chmod(0o755)
    (folder / "tools").mkdir()
    yield folder
    shutil.rmtree(folder)
    os.umask(before)


@pytest.fixture
def library(place):
    """Alice's slurm.conf, with plug-ins of hers, and the file that these write when a client loads them."""
    marker, evil = place / "marker", place / "evil"
    evil.mkdir()
    (evil / "plugin.c").write_text(LIBRARY)
    compiler = [
        "gcc",
        "-shared",
        "-fPIC",
        f'-DMARKER="{marker}"',
        "-o",
        evil / "auth_munge.so",
        evil / "plugin.c",
    ]
    subprocess.run(compiler, check=True)
    with socket.create_server(("127.0.0.1", 0)) as controller:
        (evil / "slurm.conf").write_text(
            f"ClusterName=x\nSlurmctldHost=localhost(127.0.0.1)\nSlurmctldPort={controller.getsockname()[1]}\n"
            f"AuthType=auth/munge\nPluginDir={evil}\nMessageTimeout=2\nNodeName=n\nPartitionName=p Nodes=n\n"
        )
        yield evil / "slurm.conf", marker


@pytest.mark.skipif(PYTHON is None, reason="needs root, setpriv and an interpreter for all users")
@pytest.mark.parametrize("uid", [BOB, ROOT], ids=["bob", "root"])
def test_slurm_s_client_loads_no_library_that_another_s_run_names(place, library, uid):
    conf, marker = library
    alice, reader = Person(place, ALICE), Person(place, uid)
    (place / "runs").mkdir()
    alices_run(alice, place / "runs", cluster="devcluster", slurm_conf=str(conf))
    place.chmod(0o777)  # whoever loads the library may leave the mark
    ask = (
        "import os, subprocess, sys; subprocess.run(['squeue'], env=os.environ | {'SLURM_CONF': sys.argv[1]})"
    )
    reader.start("-c", ask, conf).communicate(timeout=60)
    assert marker.read_text() == f"{uid}\n", "the library works"
    marker.unlink()
    for words in (
        ["status"],
        ["status", "run-1"],
        ["logs", "run-1"],
        ["cancel", "run-1"],
        ["resume", "run-1"],
    ):
        reader.start("-m", "hpctrain.cli", *words, "--root", place / "runs").communicate(timeout=60)
        assert not marker.exists(), f"{words} loaded it"
