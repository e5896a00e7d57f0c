"""Jobs of a study as numbers, and the text of their script."""

import dataclasses
from pathlib import PurePosixPath

import pytest

from hpctrain.config.compose import load
from hpctrain.sweep.arrays import (
    Plan,
    array_parameters,
    job_config,
    node_hours,
    plan,
    wall_bound_s,
)
from hpctrain.sweep.settings import SweepConfig


def test_one_job_a_run_split_at_the_largest_array():
    assert plan(SweepConfig(), 2500, 1000) == Plan((1000, 1000, 500), 2500, 1)
    assert plan(SweepConfig(jobs=16), 200, 1000) == Plan((200,), 16, 1)
    assert plan(SweepConfig(runs_per_job=25, jobs=16), 200, 1000) == Plan((8,), 16, 25)
    assert plan(SweepConfig(runs_at_once=4), 10, 1000) == Plan((3,), 3, 4)


def test_a_search_has_a_few_jobs_that_go_on():
    assert plan(SweepConfig(sampler="tpe", trials=50), 50, 1000) == Plan((8,), 8, None)
    assert plan(SweepConfig(pruner="asha", jobs=16), 10, 1000) == Plan((10,), 16, None)


def test_at_the_submit_limit_each_job_does_more():
    assert plan(SweepConfig(), 1000, 1000, room=90) == Plan((90,), 90, 12)
    assert plan(SweepConfig(), 1000, 1000, room=0).jobs == 0


def test_jobs_in_the_queue_are_not_submitted_again():
    assert plan(SweepConfig(), 12, 1000, live=12).jobs == 0
    assert plan(SweepConfig(), 12, 1000, live=5).jobs == 7


def config(*words):
    return load(["lenet_digits", "cluster=devcluster", "resources.gpus_per_node=1", *words])


def test_a_job_has_room_for_its_runs():
    packed = job_config(config(), SweepConfig(runs_at_once=4, runs_per_gpu=2))
    assert packed.resources.gpus_per_node == 2
    assert packed.resources.cpus_per_rank == 2
    assert job_config(config(), SweepConfig()) == config()


def test_the_script_of_an_array():
    given = array_parameters(
        config(), SweepConfig(runs_at_once=2), PurePosixPath("/r/s/.study"), "py", "c", "run-1.pkl", 200, 16
    )
    assert given["additional_parameters"]["array"] == "0-199%16"
    assert (given["ntasks_per_node"], given["cpus_per_task"], given["gpus_per_node"]) == (1, 2, 2)
    assert given["setup"][-1] == (
        "ln -sf run-1.pkl /r/s/.study/submitit/${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}_submitted.pkl"
    )
    assert given["srun_args"][:2] == ["--nodes=1", "--ntasks=1"]
    assert any("scontrol requeue" in line for line in given["teardown"])
    alone = dataclasses.replace(config().cluster, requeue=False)
    given = array_parameters(
        dataclasses.replace(config(), cluster=alone), SweepConfig(), PurePosixPath("/r"), "py", "c", "p", 1, 1
    )
    assert not any("requeue" in line for line in given["teardown"])


def test_node_hours_are_shares_of_nodes():
    quarter = config("resources.timeout_min=30")
    assert node_hours(quarter, SweepConfig(), 8) == pytest.approx(8 * 0.25 * 0.5)
    whole = dataclasses.replace(quarter, cluster=dataclasses.replace(quarter.cluster, exclusive=True))
    assert node_hours(whole, SweepConfig(), 8) == pytest.approx(8 * 0.5)


def test_no_schedule_is_shorter_than_its_longest_run_or_its_share():
    assert wall_bound_s([10, 1, 1], 4) == 10
    assert wall_bound_s([10] * 8, 4) == 20


def test_a_refused_array_becomes_a_smaller_one_with_more_to_do(tmp_path, monkeypatch):
    """sbatch as it answers beyond a submit limit of 60 jobs."""
    from hpctrain.errors import RunFailed
    from hpctrain.sweep import start
    from hpctrain.sweep.request import understand
    from hpctrain.sweep.study_dir import StudyDir

    request = understand(
        ["lenet_digits", "cluster=devcluster", "resources.gpus_per_node=1", "seed=range(150)"]
    )
    taken, calls = [], []

    def submit(study, request, tasks, jobs):
        calls.append(tasks)
        if sum(taken) + tasks > 60:
            raise RunFailed("SUBMIT_FAILED", "sbatch: error: AssocMaxSubmitJobLimit")
        taken.append(tasks)
        return str(len(calls))

    monkeypatch.setattr(start, "_submit_one", submit)
    monkeypatch.setattr(start.client, "queue", lambda conf: {})
    monkeypatch.setattr(start.client, "cancel", lambda ids, conf: taken.clear())
    monkeypatch.setattr(start.client, "max_array_size", lambda conf: 101)
    jobs, job_ids = start._submit(StudyDir(tmp_path), request, 150)
    assert sum(jobs.arrays) == sum(taken) <= 60
    assert jobs.quota * jobs.jobs >= 150
    assert len(job_ids) == len(jobs.arrays)
    assert len(calls) < 10
