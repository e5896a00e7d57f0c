"""What of a sweep contradicts itself is said in one line, before anything is written."""

import pytest

from hpctrain import cli
from hpctrain.errors import UserError
from hpctrain.sweep.request import understand

BASE = ("lenet_digits",)  # 20 epochs
LR = "optimizer.lr=0.01,0.1"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "sweep=: nothing is swept"),
        (("optimizer.lr=interval(0.1,1)",), "optimizer.lr=.*cannot be put on a grid"),
        ((LR, "sweep.trials=3"), "sweep.trials=3: is not used by sampler grid"),
        ((LR, "sweep.sampler=random"), "sweep.trials=null: sampler random needs"),
        ((LR, "sweep=cmaes", "sweep.metric=loss"), "sweep.sampler=cmaes: needs an interval"),
        (("seed=range(1000)", "optimizer.momentum=range(0,0.99,0.001)"), "sweep.max_runs=10000: .*990,000 runs"),
        ((LR, "sweep.max_runs=1"), "sweep.max_runs=1: the sweep has 2 runs"),
        ((LR, "sweep.sampler=tpee"), "sweep.sampler=tpee: must be one of grid, random, tpe.*did you mean tpe"),
        ((LR, "sweep.metric=acuracy"), "sweep.metric=acuracy: must be one of accuracy, loss .did you mean accuracy"),
        ((LR, "sweep.mode=max"), "sweep.mode=max: needs sweep.metric"),
        ((LR, "sweep.pruner=asha"), "sweep.metric=null: sweep.pruner=asha needs a metric: accuracy, loss"),
        ((LR, "sweep=tpe"), "sweep.metric=null: sampler tpe needs a metric"),
        ((LR, "sweep.pruner=asha", "sweep.metric=loss", "train.steps=9"), "sweep.pruner=asha: counts in epochs"),
        ((LR, "train.epochs=3,9", "sweep.pruner=asha", "sweep.metric=loss"), "do not sweep train.epochs"),
        ((LR, "sweep.pruner=asha", "sweep.metric=loss", "sweep.min_epochs=20"), "sweep.min_epochs=20: leaves no rung"),
        ((LR, "sweep.pruner=hyperband"), "sweep.pruner=hyperband: must be one of none, asha"),
        ((LR, "sweep.reduction=1"), "sweep.reduction=1: must be ≥ 2"),
        ((LR, "sweep.runs_per_gpu=2"), "sweep.runs_per_gpu=2: needs sweep.runs_at_once"),
        ((LR, "sweep.runs_at_once=2", "resources.ranks=2"), "sweep.runs_at_once=2: needs runs of one rank"),
        ((LR, "sweep.trails=3"), "sweep.trails=3: unknown setting .did you mean sweep.trials"),
        (("resources.nodes=1,2",), "resources.nodes=: cannot be swept"),
        (("run.study=a,b",), "run.study=: cannot be swept"),
        (("optimizer.lr=0.1,-1",), "optimizer.lr=-1: must be ≥ 0"),
        (("optimizer.lr=interval(-1,1)", "sweep=tpe", "sweep.metric=loss"), "optimizer.lr=-1.0: must be ≥ 0"),
    ],
)  # fmt: skip
def test_one_line_says_what_is_wrong(words, said):
    with pytest.raises(UserError, match=said) as caught:
        understand([*BASE, *words])
    assert "\n" not in str(caught.value)


def test_node_hours_have_a_limit():
    words = (*BASE, "cluster=devcluster", "resources.gpus_per_node=1", "resources.timeout_min=60", LR)
    # Two jobs, each a quarter of a node for an hour.
    assert understand(words).costs.node_hours_max == pytest.approx(0.5)
    with pytest.raises(UserError, match=r"sweep.max_node_hours=0.4: 2 jobs may take 0.50 node-hours"):
        understand([*words, "sweep.max_node_hours=0.4"])


def test_identical_science_is_one_run():
    twice = understand([*BASE, "optimizer.lr=0.1,1e-1,0.10,0.2", "checkpoint.keep_last=1"])
    assert len(twice.trials) == 2
    once = understand([*BASE, "optimizer.lr=0.1,0.2", "checkpoint.keep_last=1"])
    assert twice.costs == once.costs


def test_a_study_with_pruning_says_what_it_will_train(capsys, tmp_path):
    words = [
        *BASE,
        "optimizer.lr=0.1,0.2,0.3,0.4",
        "seed=0,1",
        "sweep.pruner=asha",
        "sweep.metric=loss",
        "train.epochs=9",
        "--dry-run",
    ]
    assert cli.main(["sweep", *words, f"run.root={tmp_path}"]) == 0
    said = capsys.readouterr().out
    # 8 runs for one epoch, 2 of them for two more, none to the end.
    steps = understand(words[:-1]).costs.steps
    assert f"about {round(steps * (8 + 2 * 2) / 72):,} steps if one run in 3 goes on" in said
    assert f"rungs 1, 3, 9 (epochs); all runs to their ends: {steps:,} steps" in said
    assert "warning: of 8 runs none is likely to train beyond epoch 3 of 9; 9 runs, a larger" in said
    assert "warning: with sweep.pruner=asha each seed is pruned alone" in said


def test_more_trials_keep_those_that_were_drawn_before():
    words = (
        *BASE,
        "optimizer.lr=tag(log,interval(0.001,1))",
        "optimizer.momentum=0.0,0.5,0.9",
        "sweep=random",
    )
    few, many = (understand([*words, f"sweep.trials={n}"]).trials for n in (5, 9))
    assert [t.run_id for t in many[:5]] == [t.run_id for t in few]
    assert len({t.run_id for t in many}) == 9
