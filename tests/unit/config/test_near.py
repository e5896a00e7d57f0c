"""The setting that somebody meant: by the field's other names, by the last part of a name, by letters."""

import pytest

from hpctrain.config.near import meant

KNOWN = (
    "optimizer.lr", "optimizer.momentum", "data.path", "train.ema_decay", "train.epochs", "train.steps",
    "model.size", "sweep.size", "schedule",
)  # fmt: skip


@pytest.mark.parametrize(
    ("key", "setting"),
    [
        ("lr", "optimizer.lr"),
        ("learning_rate", "optimizer.lr"),
        ("learning-rate", "optimizer.lr"),
        ("--learning-rate", "optimizer.lr"),
        ("+LearningRate", "optimizer.lr"),
        ("~trainer.optim.base_lr", "optimizer.lr"),
        ("model.momentum", "optimizer.momentum"),
        ("max_epochs", "train.epochs"),
        ("sched", "schedule"),
    ],
)
def test_another_name_of_the_field_is_known(key, setting):
    assert meant(key, KNOWN) == setting


def test_what_is_meant_must_be_there():
    assert meant("lr", ["schedule.lr", "train.steps"]) == "schedule.lr", "the one of that name"
    assert meant("learning_rate", ["train.steps"]) is None


@pytest.mark.parametrize(
    ("key", "setting"),
    [
        ("checkpoint.ema_decay", "train.ema_decay"),
        # Two have that last part: the letters of the whole name tell.
        ("modl.size", "model.size"),
        ("swep.size", "sweep.size"),
        ("optimizer.lrr", "optimizer.lr"),
        ("xyz", None),
        ("", None),
    ],
)
def test_else_it_is_the_same_last_part_or_the_nearest_letters(key, setting):
    assert meant(key, KNOWN) == setting
