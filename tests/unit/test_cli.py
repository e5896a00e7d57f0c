"""The command line without torch: help, wrong commands, wrong settings, Hydra's own flags."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpctrain import cli


def run(*args, cwd, **env):
    return subprocess.run(
        [sys.executable, "-m", "hpctrain.cli", *args],
        cwd=cwd, capture_output=True, text=True, timeout=60, env=os.environ | env,
    )  # fmt: skip


@pytest.mark.parametrize(("closed", "word", "code"), [(">&-", "--help", 0), ("2>&-", "--bogus", 2)])
def test_a_closed_stream_is_no_error_and_its_lines_go_nowhere(tmp_path, closed, word, code):
    shell = f'"$0" -m hpctrain.cli status {word} {closed}'
    done = subprocess.run(["sh", "-c", shell, sys.executable], cwd=tmp_path, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


def test_help_names_every_command(tmp_path):
    from hpctrain.cli import COMMANDS

    done = run("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["tarin"], ["command=tarin", "did you mean train?"]),
        (["train", "experiment=lenet_fashion"], ["experiment=lenet_fashion", "lenet_fashion_mnist"]),
        (["train", "model=lenett"], ["model=lenett", "did you mean lenet?"]),
        (["train", "lenet_digits", "train.batch_size=0"], ["train.batch_size=0", "≥ 1"]),
        (["train", "lenet_digits", "train.batchsize=1"], ["did you mean train.batch_size?"]),
        (["train", "lenet_digits", "resources.ranks=2000"], ["resources.ranks=2000", "≤ 1437"]),
        (["train", "lenet_digits", "resources.device=cuda"], ["resources.device=cuda", "no NVIDIA GPU"]),
        (["train", "lenet_digits", "cluster=devcluster"], ["cluster=devcluster", "hpctrain submit"]),
        (["train", "lenet_digits", "model.weights=nosuch.pt"], ["model.weights=nosuch.pt", "no such file"]),
        (["train", "lenet_digits", "model=custom", "model.target=json"], ["package.module:Class"]),
        (
            ["train", "lenet_digits", "model=custom", "model.target=json:loads"],
            ["subclass of torch.nn.Module"],
        ),
        (["train", "data=mnist"], ["data.path", "hpctrain data fetch mnist"]),
        (["train", "data=fashion_mnist", "data.path=/nowhere"], ["data.path=/nowhere", "not a folder"]),
        (["train", "lenet_digits", "run.root=/proc/x"], ["run.root=/proc/x", "can write to"]),
        (["submit", "lenet_digits", "cluster=local", "hydra.run.dir=/x"], ["hydra.run.dir=/x", "run.root"]),
        (["submit", "lenet_digits", "cluster=devclaster"], ["did you mean devcluster?"]),
        (["status", "--phase", "sleeping"], ["sleeping"]),
        (["logs", "nosuchrun"], ["has no runs yet"]),
        (["status", "--root", "/nosuch"], ["run.root=/nosuch", "no such folder"]),
        (["status", "--root", "/etc/hosts"], ["run.root=/etc/hosts", "no such folder"]),
        (["status", "--study", "/etc"], ["run.study='/etc'", "letters, digits"]),
        (["logs", "--rank", "-1"], ["--rank=-1", "≥ 0"]),
        (["train", "cluster=../x"], ["cluster=../x: must be one of barbora"]),
        (["train", "resnet50"], ["experiment=resnet50", "did you mean model=resnet50?"]),
        (["flops", "resnet50"], ["word=resnet50: must be key=value", "did you mean model=resnet50?"]),
        (["train", "=x"], ["word==x: must be key=value"]),
        (["train", "cluster.environment.1X=2"], ["word=cluster.environment.1X=2", "no digit first"]),
        (["train", "optimizer.name=adam"], ["optimizer.momentum=0.9", "chosen as optimizer=adam"]),
        (["train", "lenet_digits", "model.name=resnet50"], ["model.", "chosen as model=resnet50"]),
        (["train", "run.study=2026"], ["run.study=2026: must be text, in quotes: 'run.study=\"2026\"'"]),
        (["train", "lenet_digits", "--config-dir", ".", "seed=-1"], ["seed=-1: must be ≥ 0"]),
        (["train", "--resolve"], ["--resolve=: is for --cfg job or --help"]),
        (["report", "../x"], ["run.study='../x'", "letters, digits"]),
    ],
)
def test_bad_input_is_one_line_and_starts_nothing(tmp_path, args, words):
    done = run(*args, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
    assert len(done.stderr.splitlines()) == 1


def test_it_is_a_hydra_application(tmp_path):
    shown = run("train", "lenet_digits", "optimizer.lr=0.125", "--cfg", "job", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "lr: 0.125" in shown.stdout
    helped = run("train", "--help", cwd=tmp_path)
    assert "experiment: lenet_digits" in helped.stdout.replace(",", "") or "lenet_digits" in helped.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("hpctrain tr", "train"),
        ("hpctrain train model=res", "model=resnet50"),
        ("hpctrain submit optimizer.l", "optimizer.lr="),
    ],
)
def test_completion(tmp_path, line, expected):
    done = run("-sc", "query=bash", cwd=tmp_path, COMP_LINE=line, COMP_POINT=str(len(line)))
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout.split()


def test_an_unexpected_error_is_no_traceback(tmp_path, monkeypatch, capsys):
    from hpctrain import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HPCTRAIN_DEBUG", raising=False)
    monkeypatch.setitem(cli.COMMANDS, "models", ("hpctrain.cli:nothing_here", ""))
    assert cli.main(["models"]) == 1
    assert "internal error" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "DISK_FULL"), (errno.EDQUOT, "DISK_FULL"), (errno.EIO, "STORAGE_ERROR")],
)
def test_a_command_that_finds_the_disk_full_says_so_in_one_line(monkeypatch, capsys, number, said):
    from hpctrain import cli

    def full(argv):
        raise OSError(number, os.strerror(number), "runs/x")

    monkeypatch.setenv("HPCTRAIN_DEBUG", "1")
    monkeypatch.setattr("hpctrain.commands.status.main", full)
    assert cli.main(["status"]) == 1
    err = capsys.readouterr().err
    assert err == f"hpctrain: {said}: [Errno {number}] {os.strerror(number)}: 'runs/x'\n"


@pytest.mark.parametrize("words", [["models"], ["flops", "model=lenet", "--json"], ["--help"]], ids=" ".join)
def test_an_output_that_is_full_is_named(tmp_path, words):
    with Path("/dev/full").open("w") as full:
        line = [sys.executable, "-m", "hpctrain.cli", *words]
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        1,
        "hpctrain: stdout: cannot be written (No space left on device)\n",
    )


def test_a_nul_character_is_refused_at_the_door(capsys):
    assert cli.main(["submit", "lenet_digits", "run.name=a\0b"]) == 2
    assert capsys.readouterr().err == (
        "hpctrain: run.name=a\\x00b: holds a NUL character, which no name and no path can\n"
    )
