"""A job's own look at its folders, on a real Slurm: what was right at submit may be wrong when the job begins."""

import pytest

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
