"""Hydra's own --multirun on `hpctrain train`: with its launcher, with a plugin's, and what a sweeper is told."""

import json

import pytest

TINY = ("model=perceptron", "data.train_limit=64", "data.validation_limit=32", "train.epochs=1")


def losses(cli):
    states = [json.loads((run / "state.json").read_text()) for run in cli.runs()]
    assert {state["phase"] for state in states} == {"done"}
    return sorted(state["summary"]["validation"]["loss"] for state in states)


@pytest.mark.long
def test_multirun_by_hydra_s_launcher_and_by_submitit_s(cli):
    cli.run("train", "--multirun", "lenet_digits", *TINY, "optimizer.lr=0.1,0.2")
    assert len(losses(cli)) == 2
    cli.run(
        "train", "--multirun", "lenet_digits", *TINY, "hydra/launcher=submitit_local", "optimizer.lr=0.1,0.3"
    )
    assert len(losses(cli)) == 3, "0.1 was done already"


def test_a_sweeper_gets_the_validation_loss(cli):
    """A sweeper of Hydra's is a plugin on the path: this one writes what each run returned."""
    plugins = cli.folder / "plugins" / "hydra_plugins"
    plugins.mkdir(parents=True)
    (plugins / "telling.py").write_text(
        "from hydra._internal.core_plugins.basic_sweeper import BasicSweeper\n"
        "class Telling(BasicSweeper):\n"
        "    def __init__(self, max_batch_size, params):\n"
        "        super().__init__(max_batch_size=None)\n"
        "    def sweep(self, arguments):\n"
        "        found = super().sweep(arguments)\n"
        "        values = [job.return_value for batch in found for job in batch]\n"
        "        open('told', 'w').write(repr(values))\n"
        "        return found\n"
    )
    target = "hydra.sweeper._target_=hydra_plugins.telling.Telling"
    words = (*TINY, "optimizer.lr=0.1,0.2", target)
    cli.run("train", "--multirun", "lenet_digits", *words, PYTHONPATH=str(plugins.parent))
    told = eval((cli.folder / "told").read_text())
    assert sorted(told) == losses(cli)


def test_a_wrong_run_of_a_multirun_is_said(cli):
    _, said = cli.run("train", "--multirun", "lenet_digits", *TINY, "optimizer.lr=0.1,-1", code=2)
    assert "optimizer.lr=-1: must be ≥ 0" in said
    _, said = cli.run(
        "train", "--multirun", "lenet_digits", *TINY, "optimizer.lr=-1,-2", "hydra/launcher=submitit_local",
        code=2,
    )  # fmt: skip
    assert "must be ≥ 0" in said


@pytest.mark.parametrize("wrong", ["optimizer.lr=-1,-2", "optimizer.nosuch=1,2", "model=nosuch,neither"])
def test_a_refused_multirun_leaves_no_folder(cli, wrong):
    cli.run("train", "--multirun", "lenet_digits", wrong, code=2)
    assert not list(cli.folder.glob("multirun"))
