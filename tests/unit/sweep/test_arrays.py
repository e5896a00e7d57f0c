"""Jobs of a study as numbers, and the text of their script."""

import dataclasses
import itertools
import random
from pathlib import PurePosixPath

import pytest

from hpctrain.data.derive import load
from hpctrain.scheduler import sbatch
from hpctrain.sweep.arrays import (
    Plan,
    array_parameters,
    job_config,
    node_hours,
    plan,
    plan_for,
    uses_gpus,
    wall_bound_s,
)
from hpctrain.sweep.settings import SweepConfig


def test_one_job_a_run_split_at_the_largest_array():
    assert plan(SweepConfig(), 2500, 1000) == Plan((1000, 1000, 500), 2500, 1)
    assert plan(SweepConfig(jobs=16), 200, 1000) == Plan((200,), 16, 1)
    assert plan(SweepConfig(runs_per_job=25, jobs=16), 200, 1000) == Plan((8,), 16, 25)
    assert plan(SweepConfig(runs_at_once=4), 10, 1000) == Plan((3,), 3, 4)
    assert plan(SweepConfig(), 2000, 1000).arrays == (1000, 1000)


def test_a_search_has_a_few_jobs_that_go_on():
    assert plan(SweepConfig(sampler="tpe", trials=50), 50, 1000) == Plan((8,), 8, None)
    assert plan(SweepConfig(pruner="asha", jobs=16), 10, 1000) == Plan((10,), 16, None)


def test_at_the_submit_limit_each_job_does_more():
    assert plan(SweepConfig(), 1000, 1000, room=90) == Plan((90,), 90, 12)
    assert plan(SweepConfig(), 1000, 1000, room=0) == Plan((), 0, 1000)
    # Ten runs: one for the job in the queue, nine for the new one.
    assert plan(SweepConfig(), 10, 1000, room=1, live=[1]) == Plan((1,), 1, 9)
    # A search's jobs go on until all is done, however few there are.
    assert plan(SweepConfig(sampler="tpe", trials=50), 50, 1000, room=3) == Plan((3,), 3, None)


def test_as_much_room_as_is_needed_changes_nothing():
    settings = SweepConfig(runs_per_job=4)
    assert plan(settings, 9, 1000, room=3) == plan(settings, 9, 1000) == Plan((3,), 3, 4)


def test_jobs_in_the_queue_are_not_submitted_again():
    assert plan(SweepConfig(), 12, 1000, live=[1] * 12).jobs == 0
    assert plan(SweepConfig(), 12, 1000, live=[1] * 5).jobs == 7
    assert plan(SweepConfig(), 1, 1000, live=[1] * 5).jobs == 0


def test_a_job_in_the_queue_counts_with_what_it_has_left_to_do():
    settings = SweepConfig(runs_per_job=4)
    assert plan(settings, 12, 1000, live=[4, 1, 0]) == Plan((2,), 2, 4)
    assert plan(settings, 12, 1000, live=[4, 4, 4]).jobs == 0
    assert plan(settings, 12, 1000, live=[0, 0, 0]).jobs == 3
    # One without a limit does its share.
    assert plan(settings, 12, 1000, live=[None]) == Plan((2,), 2, 4)
    search = SweepConfig(pruner="asha", jobs=4)
    assert plan(search, 10, 1000, live=[None, None]) == Plan((2,), 4, None)


def config(*words):
    return load(["lenet_digits", "cluster=devcluster", "resources.gpus_per_node=1", *words])


def test_a_job_has_room_for_its_runs():
    packed = job_config(config(), SweepConfig(runs_at_once=4, runs_per_gpu=2))
    assert packed.resources.gpus_per_node == 2
    assert packed.resources.cpus_per_rank == 2
    assert packed.resources.mem_gb_per_rank is None
    assert job_config(config(), SweepConfig()) == config()


def test_a_job_has_the_memory_and_cores_of_its_runs():
    one = config("resources.mem_gb_per_rank=3", "resources.cpus_per_rank=2")
    packed = job_config(one, SweepConfig(runs_at_once=4, runs_per_gpu=2)).resources
    # Four runs of 3 GB and 2 cores, over two ranks.
    assert (packed.gpus_per_node, packed.mem_gb_per_rank, packed.cpus_per_rank) == (2, 6, 4)


def test_without_gpus_each_run_has_a_rank_of_its_own():
    packed = job_config(config("resources.device=cpu"), SweepConfig(runs_at_once=4, runs_per_gpu=2))
    assert packed.resources.gpus_per_node == 4


def test_this_machine_needs_no_room_for_more():
    one = load(["lenet_digits", "cluster=local"])
    assert job_config(one, SweepConfig(runs_at_once=4)) == one


def test_a_run_uses_gpus_if_it_may_and_the_cluster_has_some():
    bare = dataclasses.replace(config().cluster, gpus_per_node=None)
    assert uses_gpus(config())
    assert not uses_gpus(config("resources.device=cpu"))
    assert not uses_gpus(dataclasses.replace(config(), cluster=bare))


def test_the_script_of_an_array():
    given = array_parameters(
        config(), SweepConfig(runs_at_once=2), PurePosixPath("/r/s/.study"), "py", "c", "run-1.pkl", 200, 16
    )
    assert given["additional_parameters"]["array"] == "0-199%16"
    assert (given["ntasks_per_node"], given["cpus_per_task"], given["gpus_per_node"]) == (1, 2, 2)
    link = f"ln -sf run-1.pkl /r/s/.study/submitit/{sbatch.JOB}_submitted.pkl 2>/dev/null || true"
    assert link in given["setup"]
    assert given["srun_args"][:6] == [
        "--nodes=1", "--ntasks=1", "--cpus-per-task=2", "--overlap", "--mpi=none", "--export=ALL",
    ]  # fmt: skip
    assert (given["job_name"], given["comment"]) == ("sweep-s", "c")
    # The script's own exit code is that of srun.
    first, *middle, last = given["teardown"]
    assert (first, last) == ("code=$?", "exit $code")
    assert middle == [
        '[ $code -gt 128 ] && [ -z "$hpctrain_ended" ] && [ ${SLURM_RESTART_COUNT:-0} -lt 5 ]'
        f" && scontrol requeue {sbatch.JOB}"
    ]
    alone = dataclasses.replace(config().cluster, requeue=False)
    given = array_parameters(
        dataclasses.replace(config(), cluster=alone), SweepConfig(), PurePosixPath("/r"), "py", "c", "p", 1, 1
    )
    assert not any("requeue" in line for line in given["teardown"])


def test_a_task_has_the_cores_of_all_its_runs():
    given = array_parameters(
        config("resources.cpus_per_rank=2"), SweepConfig(runs_at_once=2), PurePosixPath("/r/s/.study"),
        "py", "c", "p", 1, 1,
    )  # fmt: skip
    assert given["cpus_per_task"] == 4


def test_node_hours_are_shares_of_nodes():
    quarter = config("resources.timeout_min=30")
    assert node_hours(quarter, SweepConfig(), 8) == pytest.approx(8 * 0.25 * 0.5)
    whole = dataclasses.replace(quarter, cluster=dataclasses.replace(quarter.cluster, exclusive=True))
    assert node_hours(whole, SweepConfig(), 8) == pytest.approx(8 * 0.5)


def test_the_share_of_a_node_is_of_gpus_or_else_of_cores():
    def share(*words, **settings):
        one = config("resources.timeout_min=60", *words)
        cluster = dataclasses.replace(one.cluster, gpus_per_node=4, cpus_per_node=16)
        return node_hours(dataclasses.replace(one, cluster=cluster), SweepConfig(**settings), 1)

    assert share("resources.cpus_per_rank=8") == pytest.approx(1 / 4)
    assert share("resources.device=cpu", "resources.cpus_per_rank=2", runs_at_once=2) == pytest.approx(4 / 16)
    assert share("resources.device=cpu", "resources.cpus_per_rank=32") == 1
    assert share("resources.nodes=2") == pytest.approx(2 / 4)


def test_no_schedule_is_shorter_than_its_longest_run_or_its_share():
    assert wall_bound_s([10, 1, 1], 4) == 10
    assert wall_bound_s([10] * 8, 4) == 20
    assert wall_bound_s([10, 10], 1) == 20
    assert wall_bound_s([10, 10], 0) == 20
    assert wall_bound_s([], 4) == 0
    generator = random.Random(0)
    for _ in range(60):
        runs, slots = (
            [generator.randint(1, 9) for _ in range(generator.randint(1, 6))],
            generator.randint(1, 3),
        )
        # Every way to give each run a slot; the shortest schedule of them all.
        shortest = min(
            max(sum(s for s, slot in zip(runs, way, strict=True) if slot == k) for k in range(slots))
            for way in itertools.product(range(slots), repeat=len(runs))
        )
        assert wall_bound_s(runs, slots) <= shortest < wall_bound_s(runs, slots) + max(runs)


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


@pytest.mark.parametrize(
    ("jobs", "left", "live", "arrays", "at_once"),
    [
        (None, 9, 0, (1,), 1),
        (None, 9, 1, (), 1),
        (None, 0, 0, (), 1),
        (3, 9, 0, (1, 1, 1), 3),
        (3, 9, 1, (1, 1), 3),
        (3, 2, 0, (1, 1), 3),
        (3, 2, 5, (), 3),
    ],
)
def test_on_this_machine_each_job_is_a_process(jobs, left, live, arrays, at_once):
    config = load(["lenet_digits", "cluster=local"])
    planned = plan_for(SweepConfig(jobs=jobs), config, left, 1000, None, [None] * live)
    assert planned == Plan(arrays, at_once, None)


def test_on_a_cluster_live_jobs_count():
    config = load(["lenet_digits", "cluster=devcluster"])
    assert plan_for(SweepConfig(), config, 9, 1000, None, ()).jobs == 9
    assert plan_for(SweepConfig(), config, 9, 1000, None, [1, 1]).jobs == 7
