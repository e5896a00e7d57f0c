"""What launchers say in the environment, and that nobody else reads it."""

import ast
from pathlib import Path

import pytest

from hpctrain import job_environment
from hpctrain.job_environment import JobEnvironment, for_slurm, missing_conf, of_submitter, read

PACKAGE = Path(job_environment.__file__).parent


def test_outside_of_a_job():
    assert read({}) == JobEnvironment()
    assert not read({}).in_job
    assert read({}).job_id is None


def test_a_task_of_an_array():
    place = read({
        "SLURM_JOB_ID": "15", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": "2",
        "SLURM_PROCID": "1", "SLURM_CPUS_PER_TASK": "8", "SLURM_CONF": "/c.conf",
    })  # fmt: skip
    assert place == JobEnvironment("12_3", "3", 2, 1, 8, "/c.conf")
    assert (place.in_job, place.start) == (True, "slurm-12_3.2")


def test_a_plain_job():
    place = read({"SLURM_JOB_ID": "15"})
    assert (place.job_id, place.start, place.restarts, place.rank) == ("15", "slurm-15.0", 0, 0)


def test_what_is_empty_or_malformed_is_not_said():
    names = (
        "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "SLURM_CPUS_PER_TASK",
        "SLURM_CONF", "SLURM_PROCID",
    )  # fmt: skip
    assert read(dict.fromkeys(names, "")) == JobEnvironment()
    assert read({"SLURM_CPUS_PER_TASK": "2(x3)", "SLURM_PROCID": "-1"}) == JobEnvironment()


@pytest.mark.parametrize(("said", "rank"), [
    ({"OMPI_COMM_WORLD_RANK": "1", "HOROVOD_RANK": "2", "PMIX_RANK": "3", "SLURM_PROCID": "4"}, 1),
    ({"HOROVOD_RANK": "2", "PMIX_RANK": "3", "SLURM_PROCID": "4"}, 2),
    ({"PMIX_RANK": "3", "SLURM_PROCID": "4"}, 3),
    ({"SLURM_PROCID": "4"}, 4),
    ({"OMPI_COMM_WORLD_RANK": "", "SLURM_PROCID": "4"}, 4),
])  # fmt: skip
def test_the_innermost_launcher_says_the_rank(said, rank):
    assert read(said).rank == rank


def test_this_process_is_read_if_nothing_is_given(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "99")
    assert read().job_id == "99"


def test_a_node_s_own_copy_of_slurm_conf_is_not_another_host_s():
    assert read({"SLURM_CONF": "/var/spool/slurmd/conf-cache/slurm.conf"}).slurm_conf is None


HABITS = {
    "SQUEUE_PARTITION": "gpu", "SQUEUE_FORMAT": "%i", "SACCT_FORMAT": "x", "SCANCEL_STATE": "PENDING", "SINFO_ALL": "1",
    "SLURM_CLUSTERS": "other", "SBATCH_TIMELIMIT": "2", "SBATCH_EXPORT": "NONE", "SALLOC_ACCOUNT": "a",
    "SCONTROL_FUTURE": "1", "SRUN_DEBUG": "3", "SLURM_NNODES": "2", "SLURMD_NODENAME": "n1",
}  # fmt: skip
KEPT = {
    "PATH": "/bin",
    "SLURM_CONF": "/own.conf",
    "SLURM_JWT": "t",
    "OMPI_MCA_btl": "tcp",
    "HOROVOD_RANK": "0",
}


def test_a_slurm_command_answers_in_plain_words_and_wholly():
    given = for_slurm(None, HABITS | KEPT | {"LC_ALL": "de_DE.UTF-8"})
    assert given == KEPT | {"LC_ALL": "C", "SLURM_TIME_FORMAT": "%s"}
    assert for_slurm("/c.conf", KEPT)["SLURM_CONF"] == "/c.conf"


def test_commands_take_this_process_s_environment(monkeypatch):
    monkeypatch.setenv("SQUEUE_PARTITION", "gpu")
    monkeypatch.setenv("OWN", "1")
    for given in (for_slurm(None), of_submitter(None)):
        assert "SQUEUE_PARTITION" not in given
        assert given["OWN"] == "1"


def test_nothing_of_a_submitter_s_environment_changes_its_job():
    assert of_submitter(None, HABITS | KEPT | {"LC_ALL": "de_DE.UTF-8"}) == KEPT | {"LC_ALL": "de_DE.UTF-8"}


def test_a_job_that_submits_leaves_its_own_variables_behind():
    own = {
        "SLURM_JOB_ID": "1", "PMIX_RANK": "0", "PMI_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0", "HOROVOD_RANK": "0",
        "SUBMITIT_EXECUTOR": "slurm",
    }  # fmt: skip
    assert of_submitter("/c.conf", own | {"PATH": "/bin"}) == {"PATH": "/bin", "SLURM_CONF": "/c.conf"}


def test_a_slurm_conf_that_is_not_there(tmp_path):
    conf = tmp_path / "slurm.conf"
    assert missing_conf({}) is None
    assert missing_conf({"SLURM_CONF": ""}) is None
    assert missing_conf({"SLURM_CONF": str(conf)}) == str(conf)
    conf.touch()
    assert missing_conf({"SLURM_CONF": str(conf)}) is None


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nobody_else_names_a_launchers_variable(path):
    """Texts of job scripts name them with a dollar; of Slurm's own configuration the doctor quotes the version."""
    if path.name == "job_environment.py":
        return
    tree = ast.parse(path.read_text())
    named = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        and node.value.startswith(("SLURM_", "SLURMD_", "PMIX_", "OMPI_COMM", "HOROVOD_RANK", "SUBMITIT_"))
        and node.value != "SLURM_VERSION"
    ]  # fmt: skip
    assert named == []
