"""Bad input to submit: one line, exit code 2, nothing submitted, nothing created; and what is not submitted again."""

import contextlib

import pytest

from hpctrain import cli
from hpctrain.commands import submit as command
from hpctrain.config.load import to_dict
from hpctrain.data.derive import load
from hpctrain.data.identify import note, run_id
from hpctrain.errors import UserError
from hpctrain.launch import estimate
from hpctrain.launch.standing import Standing
from hpctrain.storage.search import locate


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


@pytest.fixture
def uncountable(tmp_path, monkeypatch):
    """Settings of a run whose FLOPs cannot be counted, and the folder of the run, which is not there yet."""
    monkeypatch.chdir(tmp_path)

    def refuse(config):
        raise UserError("model", "lenet", "refuses its input")

    monkeypatch.setattr(estimate, "estimate", refuse)
    words = ["lenet_digits", "cluster=local"]
    config = load(words)
    return words, config, locate(config.run.root, config.run.study, run_id(config))


def prepared(config, run):
    run.create(to_dict(config))
    note(run, config)


def test_a_run_that_is_done_is_not_counted(uncountable, capsys):
    words, config, run = uncountable
    prepared(config, run)
    run.state.beat(phase="done", reason="DONE")
    assert cli.main(["submit", *words]) == 0
    assert "is done already" in capsys.readouterr().err


def test_a_run_that_is_under_way_is_not_counted(uncountable, capsys, monkeypatch):
    words, config, run = uncountable
    prepared(config, run)
    monkeypatch.setattr(command, "right_to_start", lambda run: contextlib.nullcontext(Standing("31")))
    assert cli.main(["submit", *words]) == 0
    out = capsys.readouterr().out
    assert out == (
        f"run {run.run_id} is under way already as job 31\nfollow it: hpctrain logs -f {run.run_id}\n"
    )


@pytest.mark.parametrize("again", [False, True])
def test_what_cannot_be_counted_is_not_submitted(uncountable, capsys, monkeypatch, again):
    words, config, run = uncountable
    if again:
        prepared(config, run)
    monkeypatch.setattr(Standing, "submit", lambda *args: pytest.fail("submitted"))
    assert cli.main(["submit", *words]) == 2
    assert "refuses its input" in capsys.readouterr().err
    assert run.path.exists() == again
