"""sbatch parameters and the parsing of Slurm's answers: pure functions against known texts."""

import json
import re
from datetime import datetime
from pathlib import Path, PurePath

import pytest

from hpctrain import hardware
from hpctrain.config import compose
from hpctrain.data import derive
from hpctrain.errors import UserError
from hpctrain.launch import status
from hpctrain.launch.status import Row
from hpctrain.scheduler import client, sbatch, submit
from hpctrain.scheduler.sbatch import Job
from hpctrain.storage.run_dir import RunDir, locate

GOLDEN = Path(__file__).parents[2] / "golden"


def load(*overrides):
    return derive.load(["experiment=lenet_digits", "cluster=devcluster", *overrides])


def parameters(*overrides):
    return sbatch.sbatch_parameters(load(*overrides), PurePath("/shared/runs/s/r"), "python", "c")


def test_one_task_a_gpu_with_its_share_of_cores():
    p = parameters("resources.nodes=2", "resources.gpus_per_node=2")
    assert (p["nodes"], p["ntasks_per_node"], p["gpus_per_node"], p["cpus_per_task"]) == (2, 2, 2, 1)
    assert "--mpi=pmix" in p["srun_args"]
    assert "--cpus-per-task=1" in p["srun_args"]
    assert p["additional_parameters"]["requeue"] is True


def test_memory_is_the_ranks_share_of_the_node():
    assert parameters("cluster.mem_gb_per_node=100", "resources.gpus_per_node=1")["mem"] == "24832M"
    assert parameters("resources.mem_gb_per_rank=2", "resources.gpus_per_node=3")["mem"] == "6144M"


def test_site_settings_reach_the_script():
    p = parameters(
        "cluster.account=proj", "cluster.qos=fast", "cluster.constraint=gpu", "cluster.reservation=class",
        "+cluster.sbatch.mail-type=END", "cluster.requeue=false", "cluster.gpu_gres=gpu:a100",
        "cluster.modules=[OpenMPI/4.1.4]", "cluster.setup=['source ~/env.sh']",
    )  # fmt: skip
    assert (p["account"], p["qos"], p["constraint"]) == ("proj", "fast", "gpu")
    assert p["additional_parameters"] == {
        "no-requeue": True, "open-mode": "append", "reservation": "class", "mail-type": "END",
    }  # fmt: skip
    assert p["gres"] == "gpu:a100:4"
    assert "gpus_per_node" not in p
    assert p["setup"][2:4] == ["module load OpenMPI/4.1.4", "source ~/env.sh"]


SCRIPTS = {
    "devcluster": ("resources.gpus_per_node=4", "resources.timeout_min=30"),
    "karolina": ("cluster.container=/apps/hpctrain.sif", "+cluster.sbatch.mail-type=END"),
    "leonardo": ("cluster.qos=boost_qos_dbg", "resources.timeout_min=30", "cluster.requeue=false"),
    "lumi": ("cluster.setup=[source /projappl/env.sh]", "cluster.reservation=course"),
    "perlmutter": ("resources.mem_gb_per_rank=50", "cluster.srun_args=['--cpu-bind=cores']"),
}


@pytest.mark.parametrize("cluster", SCRIPTS)
def test_the_script_is_the_golden_one(cluster):
    config = load(
        f"cluster={cluster}", "resources.nodes=2", "cluster.account=proj", "cluster.python=/opt/env/bin/python",
        *SCRIPTS[cluster],
    )  # fmt: skip
    text = submit.script(RunDir(Path("/shared/runs/study/lenet-digits-0123456789")), config)
    assert text == (GOLDEN / f"{cluster}.sbatch").read_text()


@pytest.mark.parametrize("name", [n for n in compose.groups()["cluster"] if n != "local"])
def test_presets_say_where_they_are_from_and_name_a_known_device(name):
    cluster = derive.load(["lenet_digits", f"cluster={name}"]).cluster
    assert cluster.name == name
    assert cluster.source
    assert cluster.gpus_per_node
    assert cluster.cpus_per_gpu
    assert cluster.cpus_per_gpu * cluster.gpus_per_node <= (cluster.cpus_per_node or 0)
    assert cluster.max_time_min
    if name != "devcluster":
        assert cluster.source.startswith("https://")
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", cluster.source_date or "")
        assert cluster.device
        assert hardware.find(cluster.device)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("resources.gpus_per_node=5", "resources.gpus_per_node"),
        ("resources.nodes=5", "resources.nodes"),
        ("resources.timeout_min=61", "resources.timeout_min"),
        ("resources.cpus_per_rank=2", "resources.cpus_per_rank"),
        ("cluster.needs=[account]", "cluster.account"),
    ],
)
def test_more_than_the_cluster_has_is_refused(override, key):
    with pytest.raises(UserError) as caught:
        sbatch.check(load(override))
    assert caught.value.key == key


def test_squeue_s_answer():
    text = "12|PENDING|BeginTime|t|t|hpctrain:a:b|c\n13_4|RUNNING|None|t|t|\nnonsense\n"
    assert sbatch.parse_squeue(text) == [
        Job("12", "PENDING", "BeginTime", "hpctrain:a:b|c"), Job("13_4", "RUNNING", "None", "")
    ]  # fmt: skip


def test_the_end_of_a_job_as_squeue_says_it():
    assert sbatch.parse_time("2026-11-24T05:35:03\n") == datetime(2026, 11, 24, 5, 35, 3).timestamp()
    assert [sbatch.parse_time(text) for text in ("N/A\n", "", "slurm_load_jobs error\n")] == [None] * 3


@pytest.mark.parametrize(
    ("state", "when", "grace"),
    [
        ("RUNNING", "2026-11-24T05:35:03", True),
        ("RUNNING", "None", False),
        ("COMPLETING", "2026-11-24T05:35:03", False),
    ],
)
def test_a_job_in_its_grace_time_is_known(state, when, grace):
    text = f"JobId=7 JobState={state} Reason=None\n   PreemptEligibleTime=2026-11-24T05:35:03 PreemptTime={when}\n"
    assert sbatch.in_grace(text) is grace


@pytest.mark.parametrize(
    ("states", "number"), [("RP", 0), ("PP", 0), ("CRP", 1), ("CPP", 1), ("CC", 1), ("C", 0)]
)
def test_of_a_chain_the_job_that_matters_is_chosen(states, number):
    names = {"R": "RUNNING", "P": "PENDING", "C": "COMPLETED"}
    chain = [Job(str(i), names[s]) for i, s in enumerate(states)]
    assert sbatch.current(chain) == chain[number]


def test_sacct_s_answer_without_steps():
    text = "7|CANCELLED by 1000|c\n7.batch|CANCELLED|\n8|COMPLETED|\n"
    assert sbatch.parse_sacct(text) == [Job("7", "CANCELLED", "", "c"), Job("8", "COMPLETED", "", "")]


def row(phase, age_s=1.0, reason=None):
    return Row("s", "r", phase, reason, None, 1, 5, 0.5, {}, "7", None, age_s)


@pytest.mark.parametrize(
    ("own", "job", "phase", "reason"),
    [
        (row("submitted"), Job("7", "PENDING", "Resources"), "submitted", "Resources"),
        (row("running", 99), Job("7", "PENDING", "BeginTime"), "requeued", "BeginTime"),
        (row("submitted"), Job("7", "RUNNING"), "starting", None),
        (row("running"), Job("7", "RUNNING"), "running", None),
        (row("running"), Job("7", "CANCELLED"), "cancelled", "CANCELLED"),
        (row("running", 99), Job("7", "NODE_FAIL"), "failed", "NODE_FAILURE"),
        (row("running"), Job("7", "TIMEOUT"), "failed", "TIME_LIMIT"),
        (row("running"), Job("7", "OUT_OF_MEMORY"), "failed", "OUT_OF_MEMORY"),
        (row("running", 99), Job("7", "COMPLETED"), "failed", "LOST"),
        (row("running", 2), Job("7", "COMPLETED"), "running", None),
        (row("running", 99), None, "failed", "LOST"),
        (row("running", 2), None, "running", None),
        (row("requeued", 99, "TERMINATED"), None, "interrupted", "TERMINATED"),
        (row("requeued", 99, "TIME_LIMIT"), Job("7", "COMPLETED"), "interrupted", "TIME_LIMIT"),
        (row("requeued", 2, "TERMINATED"), Job("7", "COMPLETING"), "starting", "TERMINATED"),
        (row("submitted", 99), None, "cancelled", "CANCELLED"),
        (row("running"), Job("7", "PREEMPTED"), "interrupted", "PREEMPTED"),
    ],
)
def test_a_run_s_word_and_slurm_s_are_joined(own, job, phase, reason):
    settled = status.settle(own, job)
    assert (settled.phase, settled.reason) == (phase, reason)


def a_run(folder, **state):
    run = locate(str(folder), "s", "r")
    run.path.mkdir(parents=True)
    run.config_file.touch()
    run.submission_file.write_text(json.dumps({"cluster": "c", "job_ids": ["7"], "slurm_conf": "/c.conf"}))
    run.state_file.write_text(json.dumps({"phase": "running", "heartbeat": 0.0} | state))
    return run


def test_who_waits_for_a_run_hears_of_its_job_and_of_its_end(tmp_path, monkeypatch):
    run, said = a_run(tmp_path, phase="submitted"), []
    told = iter([Job("7", "PENDING", "Priority")] * 2 + [Job("7", "CANCELLED")])
    monkeypatch.setattr(status.client, "queue", lambda conf: {"7": next(told)})
    monkeypatch.setattr(status.Watch, "ASK_S", 0.0)
    watch = status.Watch(run, said.append)
    assert [watch.ended() for _ in range(4)] == [False, False, True, True]
    assert said == ["r: submitted: waiting: Priority"]
    assert run.read_state().phase == "cancelled"


def test_a_slurm_that_does_not_answer_is_no_end(tmp_path, monkeypatch):
    run = a_run(tmp_path)

    def silent(conf):
        raise client.Unreachable("no answer")

    monkeypatch.setattr(status.client, "queue", silent)
    (row,) = status.rows(tmp_path)
    assert (row.phase, row.scheduler) == ("running", "unreachable")
    assert run.read_state().phase == "running"


def test_an_end_that_slurm_alone_knew_is_kept(tmp_path, monkeypatch):
    run = a_run(tmp_path)
    monkeypatch.setattr(status.client, "queue", lambda conf: {"7": Job("7", "NODE_FAIL")})
    assert status.rows(tmp_path)[0].reason == "NODE_FAILURE"
    monkeypatch.setattr(status.client, "queue", lambda conf: {})
    assert status.rows(tmp_path)[0].reason == "NODE_FAILURE"
    assert run.read_state().phase == "failed"
