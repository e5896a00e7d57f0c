"""Studies on the real cluster: what is said of runs that nobody will do, and array tasks that are not each other."""

import json
import os
import re
import signal
from pathlib import Path

import pytest

pytestmark = pytest.mark.slurm

LONG = ("train.epochs=100000", "checkpoint.every=500", "optimizer.lr=0.01")


def details(s):
    return {row["run"]: row["detail"] for row in s.status().values()}


def restarts(s, task):
    return int(re.search(r"Restarts=(\d+)", s.cluster.call("scontrol", "show", "job", task))[1])


def running(s):
    return {line.split()[0] for line in s.queue() if line.endswith(" RUNNING")}


def steps(s):
    return {run: row["step"] or 0 for run, row in s.status().items()}


def attempts(s):
    return sorted(len(list(run.glob("attempts/*"))) for run in s.path.glob("perceptron*"))


def test_runs_that_no_living_job_will_do_wait_for_a_sweep(study):
    s = study(*LONG, "sweep.jobs=1")
    (array,) = s.sweep("seed=1,2,3")["job_ids"]
    s.wait(lambda: any(step > 5 for step in steps(s).values()), "steps")
    in_line = [detail for detail in details(s).values() if detail == "waits for a slot of its study"]
    assert len(in_line) == 2
    s.cluster.call("scancel", f"{array}_2")
    assert sum("other runs to do" in str(detail) for detail in details(s).values()) == 1
    s.cluster.call("scancel", array)
    watched = s.cluster.hpctrain("status", "--watch", "--json", "--root", s.root, "--study", s.name)
    waits = "waits for hpctrain sweep: no job of the study is left"
    assert sum(row["detail"] == waits for row in json.loads(watched.splitlines()[-1])) == 2
    s.wait_for_end()
    assert sum(detail == waits for detail in details(s).values()) == 2
    assert s.sweep("seed=1,2,3")["jobs"] == 3


@pytest.mark.long
def test_a_job_in_the_queue_counts_with_what_it_has_left(study):
    s = study("optimizer.lr=0.01", "sweep.runs_per_job=2")
    s.sweep("train.epochs=1,100000")
    s.wait(lambda: s.ended() and any(step > 20 for step in steps(s).values()), "the second run")
    more = s.sweep("train.epochs=100000", "seed=0,7")  # the run that is under way, and a new one
    assert (more["left"], more["jobs"]) == (2, 1), "the job in the queue begins no more"


@pytest.mark.long
def test_a_task_that_dies_or_is_cancelled_leaves_the_others_alone(study):
    """The last task of an array, whose raw number is that of the whole array."""
    s = study(*LONG)
    (array,) = s.sweep("seed=1,2,3")["job_ids"]
    s.wait(lambda: sum(step > 5 for step in steps(s).values()) == 3, "steps of all")
    last = f"{array}_2"
    assert re.search(r"^JobId=(\d+)", s.cluster.call("scontrol", "show", "job", last))[1] == array
    log = (s.path / ".study/submitit" / f"{array}_0_log.out").read_text()
    assert f"of job {last} on" in log
    mine = [
        pid for pid in s.workers() if b"SLURM_ARRAY_TASK_ID=2\0" in Path(f"/proc/{pid}/environ").read_bytes()
    ]
    os.kill(min(mine), signal.SIGKILL)  # the job's process; its run's is a child
    s.wait(lambda: restarts(s, last) == 1 and last in running(s), "the last task's next start")
    assert running(s) == {f"{array}_{n}" for n in range(3)}
    assert [restarts(s, f"{array}_{n}") for n in range(2)] == [0, 0]
    s.wait(lambda: attempts(s) == [1, 1, 2], "the second attempt of one run")
    s.cluster.call("scancel", last)
    s.wait(lambda: last not in running(s), "the end of the last task")
    before = steps(s)
    others = [run.name for run in s.path.glob("perceptron*") if len(list(run.glob("attempts/*"))) == 1]
    s.wait(lambda: all(steps(s)[run] > before[run] for run in others), "steps of the others")
    assert [restarts(s, f"{array}_{n}") for n in range(2)] == [0, 0]


@pytest.mark.long
def test_a_time_limit_met_while_slurmctld_is_away(study):
    s = study(*LONG, "resources.timeout_min=2", "cluster.signal_s=80")
    (array,) = s.sweep("seed=1,2")["job_ids"]
    s.wait(lambda: sum(step > 5 for step in steps(s).values()) == 2, "steps")
    s.cluster.script("stop", "slurmctld", "--kill")
    try:
        s.wait(lambda: s.logs().count("Slurm does not answer") >= 2, "both jobs to ask")
        assert {row["scheduler"] for row in s.status().values()} == {"unreachable"}
    finally:
        s.cluster.script("start", "slurmctld")
    s.wait(lambda: attempts(s) == [2, 2], "the next start of both")
    assert [restarts(s, f"{array}_{n}") for n in range(2)] == [1, 1]
