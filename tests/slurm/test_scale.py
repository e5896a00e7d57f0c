"""A scaling study on the real cluster, from the calibration to the report that has prediction and measurement."""

import json
import subprocess

import pytest

from tests.waiting import until

pytestmark = pytest.mark.slurm


@pytest.fixture
def settings(cluster, tmp_path):
    yield (
        "lenet_digits", "cluster=devcluster", "cluster.gpus_per_node=2", "cluster.link_gbit_per_s=10",
        "train.batch_size=64", "resources.threads_per_rank=1", f"run.root={tmp_path / 'runs'}", "run.study=s",
        "scaling.gpus=1,2", "scaling.repeats=1", "scaling.window_steps=5", "scaling.windows=2",
        "scaling.timeout_min=5", "scaling.exclusive=false", "scaling.one_at_a_time=false",
    )  # fmt: skip
    subprocess.run(["scancel", "--user=root"], env=cluster.environment, check=False)


def test_a_study_from_calibration_to_report(cluster, settings, tmp_path):
    root = tmp_path / "runs"
    refused = cluster.hpctrain("predict", *settings, code=2)
    assert "is not calibrated" in refused
    assert "hpctrain scale --calibrate" in refused

    calibration = json.loads(cluster.hpctrain("scale", "--calibrate", *settings, "--json"))
    study = json.loads(cluster.hpctrain("scale", *settings, "--json"))
    assert (len(calibration["submitted"]), len(study["submitted"])) == (3, 2)
    assert study["batch"] == {"1": 64, "2": 64}
    # What is under way is not submitted again.
    assert json.loads(cluster.hpctrain("scale", *settings, "--json"))["submitted"] == []
    until(lambda: not cluster.call("squeue", "--noheader"), "an empty queue")

    report = json.loads(cluster.hpctrain("report", "s", "--root", root, "--json"))["data"]["own"]
    assert report["missing"] == []
    one, two = report["rows"]
    assert (one["gpus"], two["gpus"]) == (1, 2)
    assert one["speedup"] == 1
    assert two["step_ms"] > 0
    parts = sum(
        two[f"{part}_ms"] for part in ("data", "compute", "exposed", "straggler", "checkpoint", "other")
    )
    assert parts == pytest.approx(two["step_ms"], rel=0.02)
    assert one["predicted_step_ms"] > 0
    assert [p["gpus"] for p in report["predicted"]] == [1, 2, 4, 8]
    assert (root / "s" / "report.html").stat().st_mode & 0o077 == 0

    many = [w for w in settings if not w.startswith("scaling.gpus")]
    found = json.loads(cluster.hpctrain("predict", *many, "scaling=weak", "scaling.gpus=1..1024", "--json"))
    assert found["points"][-1]["gpus"] == 1024
    assert found["link_gbit_per_s"] == 10
    assert all(p["step_s"] > 0 and p["low_s"] is None for p in found["points"])  # one repeat
    assert json.loads(cluster.hpctrain("scale", *settings, "--dry-run", "--json"))["node_seconds_a_point"].keys() == {
        "1", "2",
    }  # fmt: skip
