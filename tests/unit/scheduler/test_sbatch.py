"""sbatch parameters and the parsing of Slurm's answers: pure functions against known texts."""

import os
import re
import shlex
import signal
import subprocess
from functools import cache
from pathlib import Path, PurePath

import pytest

from hpctrain import hardware, job_environment
from hpctrain.config import compose
from hpctrain.data import derive
from hpctrain.errors import UserError
from hpctrain.scheduler import sbatch, submit
from hpctrain.storage.run_dir import RunDir

GOLDEN = Path(__file__).parents[2] / "golden"


BASE = ("experiment=lenet_digits", "cluster=devcluster")
composed = cache(compose.compose)


def load(*changes):
    """Returns the base's configuration with some values changed, without composing it anew."""
    return derive.configure(compose.change(composed(BASE), changes))


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
        "cluster.sbatch={mail-type:END}", "cluster.requeue=false", "cluster.gpu_gres=gpu:a100",
        "cluster.modules=[OpenMPI/4.1.4]", "cluster.setup=['source ~/env.sh']",
    )  # fmt: skip
    assert (p["account"], p["qos"], p["constraint"]) == ("proj", "fast", "gpu")
    assert p["additional_parameters"] == {
        "no-requeue": True, "open-mode": "append", "reservation": "class", "mail-type": "END",
    }  # fmt: skip
    assert p["gres"] == "gpu:a100:4"
    assert "gpus_per_node" not in p
    assert p["setup"][5] == "source ~/env.sh"


def test_modules_that_do_not_load_end_the_job():
    p = parameters("cluster.modules=[OpenMPI/4.1.4, A B]", "cluster.setup=['module load C', 'module list']")
    end = "python -m hpctrain.launch.post_mortem /shared/runs/s/r; exit 1; }"
    assert p["setup"][5:7] == [
        "module load C || { echo 'hpctrain: failed before srun: module load C'; " + end,
        "module list",
    ]
    assert p["setup"][4].startswith(
        "module load OpenMPI/4.1.4 'A B' || { echo 'hpctrain: failed before srun: module"
    )
    assert p["setup"][4].endswith(end)
    # A study's job has no run to speak of.
    alone = sbatch.setup(load("cluster.modules=[X]"), PurePath("/s"))
    assert alone[4] == "module load X || { echo 'hpctrain: failed before srun: module load X'; exit 1; }"


@pytest.mark.parametrize(
    ("array", "name"),
    [
        ({}, "15"),
        ({"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}, "12_3"),
        # The array's last task, whose own number is the array's.
        ({"SLURM_ARRAY_JOB_ID": "15", "SLURM_ARRAY_TASK_ID": "9"}, "15_9"),
    ],
)
def test_a_task_of_an_array_is_named_as_slurm_s_commands_take_it(array, name):
    said = subprocess.run(
        ["bash", "-uc", f"echo {sbatch.JOB}"], capture_output=True, text=True, env={"SLURM_JOB_ID": "15"} | array
    )  # fmt: skip
    assert said.stdout == f"{name}\n"
    assert job_environment.read({"SLURM_JOB_ID": "15"} | array).job_id == name


@pytest.fixture
def in_bash(tmp_path):
    """Runs the lines around `command` as the batch shell does; returns its exit code and output."""

    def run(command, *overrides, before="", **environment):
        p = parameters(*overrides)
        lines = [before, *p["setup"], command, *p["teardown"]]
        (tmp_path / "python").write_text("#!/bin/sh\necho post mortem\nexit 1\n")
        (tmp_path / "python").chmod(0o700)
        path = f"{tmp_path}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", "\n".join(lines)], capture_output=True, text=True,
            env=environment | {"PATH": path, "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]"},
        )  # fmt: skip
        return done.returncode, done.stdout.splitlines()[1:]

    return run


@pytest.mark.parametrize("name", ["HUP", "INT", "USR1", "USR2"])
def test_the_batch_shell_outlives_warnings(in_bash, name):
    assert in_bash(f"kill -{name} $$; echo srun; (exit 3)") == (1, ["srun", "post mortem"])


def test_the_shell_waits_until_srun_has_ended(in_bash):
    """A handler runs after the command in the foreground; the command does not inherit it."""
    (code, said) = in_bash("sh -c 'kill -USR2 $PPID; sleep 0.2; kill -USR2 $$; echo survived'; echo $?")
    assert (code, said) == (1, [str(128 + signal.SIGUSR2), "post mortem"])


def test_of_a_job_that_slurm_ends_slurm_knows_why(in_bash):
    assert in_bash("kill -TERM $$; echo srun; (exit 143)") == (143, ["srun"])
    assert in_bash("kill -TERM $$; echo srun", hpctrain_ended="") == (0, ["srun"])
    # The variable is not taken over from the submitter's environment.
    assert in_bash("echo srun", hpctrain_ended="yes") == (1, ["srun", "post mortem"])


def test_no_module_command_or_no_such_module(in_bash):
    failed = "hpctrain: failed before srun: module load X"
    assert in_bash("echo srun", "cluster.modules=[X]") == (1, [failed, "post mortem"])
    bad = "module() { echo no $2; false; }"
    assert in_bash("echo srun", "cluster.modules=[X]", before=bad) == (1, ["no X", failed, "post mortem"])
    good = "module() { echo loaded $2; }"
    assert in_bash("echo srun", "cluster.modules=[X]", before=good) == (
        1,
        ["loaded X", "srun", "post mortem"],
    )


SCRIPTS = {
    "devcluster": ("resources.gpus_per_node=4", "resources.timeout_min=30"),
    "karolina": ("cluster.container=/apps/hpctrain.sif", "+cluster.sbatch.mail-type=END"),
    "leonardo": ("cluster.qos=boost_qos_dbg", "resources.timeout_min=30", "cluster.requeue=false"),
    "lumi": ("cluster.setup=[source /projappl/env.sh]", "cluster.reservation=course"),
    "perlmutter": ("resources.mem_gb_per_rank=50", "cluster.srun_args=['--cpu-bind=cores']"),
}


@pytest.mark.parametrize("cluster", SCRIPTS)
def test_the_script_is_the_golden_one(cluster):
    config = derive.load([
        *BASE, f"cluster={cluster}", "resources.nodes=2", "cluster.account=proj",
        "cluster.python=/opt/env/bin/python", *SCRIPTS[cluster],
    ])  # fmt: skip
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
    ("overrides", "said"),
    [
        (["resources.gpus_per_node=5"], "resources.gpus_per_node=5: must be ≤ 4, devcluster's GPUs per node"),
        (["resources.nodes=5"], "resources.nodes=5: must be ≤ 4, devcluster's nodes per job"),
        (
            ["resources.timeout_min=61"],
            "resources.timeout_min=61: must be ≤ 60, devcluster's minutes, the time limit",
        ),
        (
            ["resources.cpus_per_rank=3", "resources.gpus_per_node=2"],
            "resources.cpus_per_rank=3: × 2 ranks is more than the 4 cores of a node",
        ),
        (
            ["resources.mem_gb_per_rank=5", "cluster.mem_gb_per_node=8", "resources.gpus_per_node=2"],
            "resources.mem_gb_per_rank=5.0: must be ≤ 4, devcluster's GB per rank",
        ),
        (["cluster.sbatch={N:2}"], "cluster.sbatch.N=2: must be an option's long name, such as nice"),
        (["cluster.sbatch={nodes:2}"], "cluster.sbatch.nodes=2: cannot be given: give resources.nodes"),
        (["cluster.sbatch={time:5}"], "cluster.sbatch.time=5: cannot be given: give resources.timeout_min"),
        (["cluster.sbatch={qos:a}"], "cluster.sbatch.qos=a: cannot be given: give cluster.qos"),
        (
            ["cluster.sbatch={cpus_per_task:2}"],
            "cluster.sbatch.cpus_per_task=2: cannot be given: give resources.cpus_per_rank",
        ),
        (
            ["cluster.needs=[account]"],
            "cluster.account=null: devcluster needs it: give cluster.account=NAME",
        ),
        (
            ["cluster.sbatch={mem-per-cpu:1G}", "resources.mem_gb_per_rank=1"],
            "cluster.sbatch.mem-per-cpu=1G: sbatch refuses it beside --mem, which resources.mem_gb_per_rank asks for: "
            "give resources.mem_gb_per_rank=null",
        ),
        (
            ["cluster.sbatch={mem_per_gpu:1G}", "cluster.mem_gb_per_node=8"],
            "cluster.sbatch.mem_per_gpu=1G: sbatch refuses it beside --mem, which cluster.mem_gb_per_node asks for: "
            "give cluster.mem_gb_per_node=null",
        ),
    ],
)
def test_more_than_the_cluster_has_is_refused(overrides, said):
    with pytest.raises(UserError) as caught:
        sbatch.check(load(*overrides))
    assert str(caught.value) == said


@pytest.mark.parametrize(
    "option", ["parsable", "quiet", "test-only", "wait", "comment", "job_name", "requeue"]
)
def test_options_that_hpctrain_needs_or_that_make_no_job_are_refused(option):
    with pytest.raises(UserError, match=rf"cluster\.sbatch\.{option}=True: cannot be given: "):
        sbatch.check(load(f"cluster.sbatch={{{option}:true}}"))


@pytest.mark.parametrize(
    "overrides",
    [
        ["resources.gpus_per_node=4", "resources.nodes=4", "resources.timeout_min=60"],
        ["cluster.gpus_per_node=null", "cluster.max_nodes=null", "resources.nodes=9"],
        ["cluster.needs=[partition]", "resources.cpus_per_rank=4", "resources.gpus_per_node=1"],
        ["cluster.cpus_per_node=null", "resources.cpus_per_rank=999999999", "resources.gpus_per_node=1"],
    ],
)
def test_as_much_as_the_cluster_has_is_taken(overrides):
    sbatch.check(load(*overrides))


def test_a_cluster_of_unknown_size_still_has_fewer_than_a_billion_cores_per_node():
    with pytest.raises(UserError, match="is more than"):
        sbatch.check(
            load(
                "cluster.cpus_per_node=null", "resources.cpus_per_rank=500000001", "resources.gpus_per_node=2"
            )
        )


def test_the_cores_of_a_rank():
    assert sbatch.cpus_per_rank(load("resources.cpus_per_rank=3")) == 3
    assert sbatch.cpus_per_rank(load("cluster.cpus_per_gpu=2")) == 2
    share = ["cluster.cpus_per_gpu=null", "cluster.cpus_per_node=14", "resources.gpus_per_node=2"]
    assert sbatch.cpus_per_rank(load(*share)) == 3
    assert sbatch.cpus_per_rank(load(*share, "cluster.gpus_per_node=null")) == 7
    assert sbatch.cpus_per_rank(load(*share, "cluster.cpus_per_node=3")) == 1
    assert sbatch.cpus_per_rank(load(*share, "cluster.cpus_per_node=null")) == 1


def test_the_time_limit_and_the_most_that_a_job_may_cost():
    assert sbatch.timeout_min(load("resources.timeout_min=7")) == 7
    assert sbatch.timeout_min(load("cluster.max_time_min=50")) == 50
    assert sbatch.timeout_min(load("cluster.max_time_min=null")) == 60
    assert sbatch.node_hours(load("resources.nodes=3", "resources.timeout_min=40", "resources.chain=5")) == 10


def test_how_a_job_starts_python():
    assert sbatch.python_command(load(), "/opt/my env/python") == "'/opt/my env/python' -P"
    assert sbatch.python_command(load("cluster.python=/x/py"), "/opt/python") == "/x/py -P"
    inside = ["cluster.container='/apps/my hpc.sif'"]
    assert sbatch.python_command(load(*inside), "x") == "apptainer exec --nv '/apps/my hpc.sif' python3 -P"
    more = ["cluster.python=/x/py", "resources.device=cpu"]
    assert sbatch.python_command(load(*inside, *more), "x") == "apptainer exec '/apps/my hpc.sif' /x/py -P"


def test_python_may_have_arguments():
    assert (
        sbatch.python_command(load("cluster.python='conda run -n x python'"), "y")
        == "conda run -n x python -P"
    )
    assert sbatch.python_command(load("cluster.python=\"'/my env/py' -O\""), "y") == "'/my env/py' -O -P"
    with pytest.raises(UserError, match=r"cluster.python=py 'x: is not a command line: no closing quotation"):
        sbatch.check(load('cluster.python="py \'x"'))


def test_what_comes_from_a_variable_is_read_by_the_script(monkeypatch):
    monkeypatch.setenv("MY_STACK", "canary")
    words = [
        "cluster.modules=['${oc.env:MY_STACK}/4','b c']",
        "cluster.setup=['cd ${oc.env:MY_STACK}/x','y']",
    ]
    lines = sbatch.setup(load(*words), PurePath("/run"))
    assert any(line.startswith("""module load "${MY_STACK}"/4 'b c' || """) for line in lines)
    assert "cd ${MY_STACK}/x" in lines
    assert "y" in lines
    assert "canary" not in "".join(lines)


def test_ranks_on_cpus_ask_for_no_gpus():
    p = parameters("resources.device=cpu", "resources.gpus_per_node=2")
    assert "gpus_per_node" not in p
    assert "gres" not in p
    assert parameters("resources.gpus_per_node=2")["gpus_per_node"] == 2
    bare = parameters("cluster.gpus_per_node=null", "cluster.gpu_gres=gpu:x")
    assert "gres" not in bare


def test_memory_of_a_part_of_a_node_is_at_most_all_of_it():
    node = ["cluster.mem_gb_per_node=100"]
    assert parameters(*node, "resources.gpus_per_node=4")["mem"] == "99328M"
    assert parameters(*node, "resources.gpus_per_node=8")["mem"] == "99328M"
    assert parameters(*node, "cluster.gpus_per_node=null", "resources.gpus_per_node=2")["mem"] == "99328M"
    assert "mem" not in parameters()


def test_what_is_always_said():
    p = parameters("cluster.mpi=null")
    assert (p["job_name"], p["comment"], p["stderr_to_stdout"]) == ("r", "c", True)
    assert p["srun_args"] == ["--export=ALL", "--cpus-per-task=1", "--kill-on-bad-exit=1"]
    assert p["wckey"] is None
    assert "exclusive" not in p
    assert parameters("cluster.exclusive=true")["exclusive"] is True


@pytest.mark.parametrize("folder", ["/s/50%/runs", "/s/a b/%x", "/s/it's 5%u", "/s/plain"])
def test_a_percent_in_a_folder_stands_for_itself(folder):
    log = shlex.quote(f"{folder}/%j_0_log.out")
    text = f"#SBATCH --output={log}\nsrun --output {log} python -m x {shlex.quote(folder)}\n"
    escaped = sbatch.with_percent(text, PurePath(folder))
    outputs = [shlex.split(line.replace("=", " "))[2] for line in escaped.splitlines()]
    assert outputs == [f"{folder.replace('%', '%%')}/%j_0_log.out"] * 2
    assert shlex.split(escaped.splitlines()[1])[-1] == folder
