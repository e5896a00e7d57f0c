"""Studies on the real cluster: from `sweep` to `report`, and what becomes of them when things are killed."""

import csv
import json
import os
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slurm
PATIENCE_S = 150


def test_a_study_from_sweep_to_report(study, tmp_path):
    s = study("train.epochs=2", "sweep.runs_per_job=4", "optimizer.weight_decay=0.01")
    lrs = "optimizer.lr=0.01,0.1,1e12"  # the last one fails: its loss is not finite
    dry = s.sweep("--dry-run", lrs, "seed=0,1")
    assert (dry["runs"], dry["jobs"], dry["job_ids"]) == (6, 2, [])
    assert dry["flops_total"] > 0
    assert dry["node_hours_max"] > 0
    assert not s.path.exists(), "a dry run writes nothing"

    first = s.sweep(lrs, "seed=0,1")
    assert (first["runs"], first["arrays"], len(first["job_ids"])) == (6, [2], 1)
    assert len(s.status()) == 6, "also those that wait"
    again = s.sweep(lrs, "seed=0,1")
    assert again["job_ids"] == [], "its jobs are in the queue already"
    more = s.sweep("optimizer.lr=0.03", "seed=0,1")
    assert more["runs"] == 2
    s.wait_for_end()
    if more["job_ids"] == []:  # the jobs of the first call may have done them too
        s.sweep("optimizer.lr=0.03", "seed=0,1")
        s.wait_for_end()

    phases = {row["run"]: row["phase"] for row in s.report()["runs"]}
    assert sorted(phases.values()) == ["done"] * 6 + ["failed"] * 2
    assert s.sweep(lrs, "seed=0,1")["left"] == 0
    assert all(
        facts["reason"] == "NAN_PERSISTENT" for facts in s.ended().values() if facts["phase"] == "failed"
    )

    found = s.report("--csv", tmp_path / "t.csv", "--parquet", tmp_path / "t.parquet")
    assert [len(one["values"]) for one in found["settings"]] == [2, 2, 2]
    best = found["settings"][0]
    assert f"optimizer.lr={best['params']['optimizer.lr']}" in found["best"]
    assert (best["half_width"] is None) == (len(set(best["values"])) == 1)  # equal scores show no scatter
    assert found["slots"]["busy_seconds"] <= found["slots"]["seconds"]
    with (tmp_path / "t.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 8
    page = (s.path / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", ""), "the page needs no network"
    assert "NAN_PERSISTENT" in page

    retried = s.sweep(lrs, "seed=0,1", "--retry", "failed")
    assert retried["left"] == 2
    s.wait_for_end()
    failed = [run for run, phase in phases.items() if phase == "failed"]
    for run in failed:
        assert len(list((s.path / run / "attempts").iterdir())) == 2
    done = next(run for run, phase in phases.items() if phase == "done")
    subprocess.run(["rm", "-r", str(s.path / done)], check=True)
    assert s.sweep(lrs, "seed=0,1", "optimizer.momentum=0.9")["left"] == 1, "a deleted run is done again"
    s.wait_for_end()
    assert s.status()[done]["phase"] == "done"


@pytest.mark.long
def test_asha_goes_on_whatever_is_killed(study, cluster, tmp_path):
    """Jobs killed with SIGKILL, then all preempted: every run ends once, and the best have gone on."""
    s = study(
        "train.epochs=4", "sweep.pruner=asha", "sweep.reduction=2", "sweep.metric=accuracy", "sweep.jobs=3"
    )
    s.sweep("optimizer.lr=0.001,0.01,0.1,0.3", "seed=0,1")
    s.wait(lambda: list(s.path.glob("*/metrics.jsonl")), "a run")
    for pid in s.workers()[:2]:
        os.kill(pid, signal.SIGKILL)
    before = len(s.ended())
    s.wait(lambda: len(s.ended()) > before, "work after the kill")
    script = tmp_path / "high.sh"
    script.write_text(
        "#!/bin/bash\n#SBATCH --partition=high --exclusive --nodes=4 --time=2 --output=/dev/null\nsleep 2\n"
    )
    cluster.call("sbatch", str(script))
    s.wait_for_end()
    s.sweep("optimizer.lr=0.001,0.01,0.1,0.3", "seed=0,1")  # if a job was lost for good
    s.wait_for_end()

    ended = s.ended()
    rungs = [sum(key.endswith(f".{rung}") for key in ended) for rung in range(3)]
    assert rungs[0] == 8
    assert rungs[1] >= 4  # half of 8; early promotions may add some
    assert 2 <= rungs[2] <= rungs[1]
    assert {facts["phase"] for key, facts in ended.items() if key.endswith(".2")} == {"done"}
    for key, facts in ended.items():
        run, _, rung = key.rpartition(".")
        records = [json.loads(line) for line in (s.path / run / "metrics.jsonl").read_text().splitlines()]
        epochs = [r["epoch"] for r in records if r["kind"] == "validation"]
        assert epochs == [float(n + 1) for n in range(len(epochs))], "no epoch twice"
        assert facts["epochs"] == (1.0, 2.0, 4.0)[int(rung)], (key, facts)
    found = s.report()
    assert found["settings"][0]["epochs"] == 4.0
    assert found["phases"]["done"] == rungs[2]


@pytest.mark.long
def test_runs_of_two_ranks_on_two_nodes(study):
    s = study("train.epochs=1", "resources.nodes=2", "sweep.runs_per_job=2")
    s.sweep("optimizer.lr=0.1,0.2")
    s.wait_for_end()
    assert {facts["phase"] for facts in s.ended().values()} == {"done"}
    for run in s.path.glob("perceptron*"):
        hosts = {json.loads(file.read_text())["host"] for file in run.glob("attempts/1/rank_*.json")}
        assert hosts == {"node1", "node2"} or len(hosts) == 2


def test_cancel_and_go_on(study, cluster):
    s = study("train.epochs=400", "sweep.runs_per_job=2", "sweep.runs_at_once=2", "checkpoint.every=5")
    s.sweep("optimizer.lr=0.1,0.2")
    s.wait(lambda: [r["step"] or 0 for r in s.status().values() if (r["step"] or 0) > 10], "steps")
    said = cluster.hpctrain("cancel", "--root", s.root, "--study", s.name)
    assert "asked to save and stop" in said
    s.wait_for_end()
    rows = s.status()
    assert {row["phase"] for row in rows.values()} == {"cancelled"}
    assert s.ended() == {}
    steps = {run: row["step"] for run, row in rows.items()}
    s.sweep("optimizer.lr=0.1,0.2")
    s.wait(lambda: all((row["step"] or 0) > steps[run] for run, row in s.status().items()), "more steps")
    for run in steps:
        log = (s.path / run / "attempts" / "2" / "rank_0.log").read_text()
        assert "resuming at step" in log


@pytest.mark.long
def test_a_search_of_an_interval(study):
    """TPE suggests and asha prunes, in two jobs at once: as many runs as were asked for, then some more."""
    s = study(
        "train.epochs=2", "sweep=tpe", "sweep.metric=accuracy", "sweep.pruner=asha", "sweep.reduction=2",
        "sweep.jobs=2", "optimizer.lr=tag(log,interval(0.01,1))",
    )  # fmt: skip
    s.sweep("sweep.trials=4")
    s.wait_for_end()
    rungs = [key[-1] for key in s.ended()]
    assert rungs.count("0") == 4
    assert rungs.count("1") >= 2  # half of 4; early promotions may add some
    s.sweep("sweep.trials=6")
    s.wait_for_end()
    found = s.report()
    rates = {row["optimizer.lr"] for row in found["runs"]}
    assert len(rates) == 6
    assert all(0.01 <= rate <= 1 for rate in rates)
    assert found["phases"]["done"] >= 3
    assert found["settings"][0]["epochs"] == 2.0


def test_a_submitter_killed_half_way_leaves_nothing_double(study, tmp_path, cluster):
    """An sbatch that is killed together with its caller once the first of two arrays is in the queue."""
    real = subprocess.run(["which", "sbatch"], capture_output=True, text=True, check=True).stdout.strip()
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "sbatch"
    fake.write_text(f'#!/bin/bash\n{real} "$@"\nkill -9 $PPID\n')
    small = tmp_path / "bin" / "scontrol"
    small.write_text("#!/bin/sh\necho 'MaxArraySize            = 3'\n")  # tasks 0 and 1
    for file in (fake, small):
        file.chmod(0o755)
    s = study("train.epochs=1")
    words = ("optimizer.lr=0.1,0.2,0.3",)
    killed = subprocess.run(
        [sys.executable, "-m", "hpctrain.cli", "sweep", *s.settings, *words],
        env=cluster.environment | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL
    assert len({line.partition("_")[0] for line in s.queue()}) == 1
    again = s.sweep(*words)
    assert again["jobs"] <= 3
    s.wait_for_end()
    assert sorted(facts["phase"] for facts in s.ended().values()) == ["done"] * 3
    assert all(len(list(run.glob("attempts/*"))) == 1 for run in s.path.glob("perceptron*"))


def test_two_people_extend_a_study_at_once(study, cluster):
    s = study("train.epochs=1", "sweep.runs_per_job=4")
    words = [("optimizer.lr=0.1,0.2,0.3",), ("optimizer.lr=0.3,0.4,0.5",)]
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "hpctrain.cli", "sweep", *s.settings, *w, "--json"],
            env=cluster.environment, stdout=subprocess.PIPE, text=True,
        )
        for w in words
    ]  # fmt: skip
    for process in both:
        out, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, out
    s.wait_for_end()
    s.sweep(*words[0])  # the second call may have counted on the first one's jobs, which had just ended
    s.wait_for_end()
    assert len(s.ended()) == 5
    assert all(len(list(run.glob("attempts/*"))) == 1 for run in s.path.glob("perceptron*"))
