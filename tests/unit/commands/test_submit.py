"""Bad input to submit: one line, exit code 2, nothing submitted, nothing created."""

import pytest

from hpctrain import cli


@pytest.fixture
def submit(tmp_path, monkeypatch, capsys):
    """Runs submit in an empty folder with a Slurm whose every command would leave a file there."""
    tools, work = tmp_path / "bin", tmp_path / "work"
    tools.mkdir()
    work.mkdir()
    for name in ("sbatch", "srun", "squeue", "scancel"):
        (tools / name).write_text(f"#!/bin/sh\ntouch {work}/called\n")
        (tools / name).chmod(0o755)
    monkeypatch.chdir(work)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_CONF", "/dev/null")

    def call(*words):
        code = cli.main(["submit", "lenet_digits", "cluster=devcluster", *words])
        out, err = capsys.readouterr()
        assert (code, out) == (2, ""), err
        assert len(err.splitlines()) == 1
        assert "internal error" not in err
        assert list(work.iterdir()) == []
        return err

    return call


@pytest.mark.parametrize(
    "name", ["..", "../x", "a/b", "'a\nb'", "'$(touch called)'", "x" * 300, "'-rf'", "''"]
)
@pytest.mark.parametrize("key", ["run.name", "run.study"])
def test_names_that_are_no_names(submit, key, name):
    assert key in submit(f"{key}={name}")


@pytest.mark.parametrize(
    "setting",
    [
        "resources.nodes=0", "resources.nodes=-1", "resources.nodes=5", "resources.nodes=1e9", "resources.nodes=two",
        "resources.gpus_per_node=0", "resources.gpus_per_node=9", "resources.gpus_per_node=999999999999999999999",
        "resources.timeout_min=0", "resources.timeout_min=-5", "resources.timeout_min=100000",
        "resources.cpus_per_rank=-1", "resources.cpus_per_rank=64", "resources.mem_gb_per_rank=-1",
        "resources.mem_gb_per_rank=nan", "resources.chain=0", "resources.chain=1000000", "cluster=nowhere",
        "cluster=karolina", "cluster.signal_s=0", "cluster.needs=[money]", "cluster.sbatch=5",
    ],
)  # fmt: skip
def test_resources_that_no_cluster_has(submit, setting):
    key = setting.partition("=")[0]
    assert key in submit(setting)


def test_not_on_a_cluster_at_all(submit, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/sbin:/sbin")
    assert "not a login node" in submit()


def test_a_cluster_that_is_not_up(submit, monkeypatch, tmp_path):
    monkeypatch.delenv("SLURM_CONF")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "slurm/devcluster up" in submit()
