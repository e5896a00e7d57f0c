"""Bad settings are told in one line; equal science has an equal id."""

import dataclasses

import pytest

from hpctrain.config import compose
from hpctrain.config.data_kinds import Family, family
from hpctrain.config.load import from_dict, to_dict
from hpctrain.data import derive
from hpctrain.data.identify import run_id
from hpctrain.errors import UserError


def load(*overrides):
    return derive.load(["experiment=lenet_digits", *overrides])


@pytest.mark.parametrize(
    ("override", "key", "nearest"),
    [
        ("experiment=lenet_digit", "experiment", "lenet_digits"),
        ("model=lenett", "model", "lenet"),
        ("optimiser.lr=1", "optimiser.lr", "optimizer.lr"),
        ("train.batchsize=3", "train.batchsize", "train.batch_size"),
        ("train.batch_size=0", "train.batch_size", None),
        ("train.batch_size=abc", "train.batch_size", None),
        ("train.batch_size=1.5", "train.batch_size", None),
        ("optimizer.lr=fast", "optimizer.lr", None),
        ("optimizer.lr=-1", "optimizer.lr", None),
        ("train.on_nan=stopp", "train.on_nan", "stop"),
        ("optimizer.name=sgdd", "optimizer.name", "sgd"),
        ("model.variant=modren", "model.variant", "modern"),
        ("task.label_smoothing=1", "task.label_smoothing", None),
        ("run.study=../up", "run.study", None),
        ("run.name='a b'", "run.name", None),
        ("resources.ranks=100000", "resources.ranks", None),
        ("train.epochs=null", "train.epochs", None),
        ("optimizer.lr=[1", "optimizer.lr", None),
        ("seed=true", "seed", None),
        ("optimizer.lr=false", "optimizer.lr", None),
        ("train.epochs=true", "train.epochs", None),
        ("data.std=[true]", "data.std", None),
        ("model.padding=true", "model.padding", None),
        ("checkpoint.every=sometimes", "checkpoint.every", None),
    ],
)
def test_a_wrong_setting_names_key_and_nearest(override, key, nearest):
    with pytest.raises(UserError) as caught:
        load(override)
    assert caught.value.key == key
    assert caught.value.nearest == nearest
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["checkpoint.every=often"], "checkpoint.every=often: must be a valid integer, or 'auto' or 'epoch'"),
        (["comm.batch_norm_ranks=0"], "comm.batch_norm_ranks=0: must be ≥ 1, or 'all'"),
        (["comm.bucket_mb=-1", "comm.reduction=median"], "comm.bucket_mb=-1: must be > 0"),
        (["comm.batch_norm_ranks=2"], "comm.batch_norm_ranks=2: must divide the 1 ranks, or be all"),
        (["comm.batch_norm_ranks=all", "precision.compile=true"],
         "comm.batch_norm_ranks=all: must be 1 with precision.compile=true"),
        (["train.batch_size=16777217"],
         "train.batch_size=16777217: must be ≤ 16777216: a rank has them in memory at once"),
        (["resources.threads_per_rank=4097"],
         "resources.threads_per_rank=4097: must be ≤ 4096: no node has as many cores"),
    ],
)  # fmt: skip
def test_what_is_allowed_is_said_whole(overrides, said):
    with pytest.raises(UserError) as caught:
        load(*overrides)
    assert str(caught.value) == said


@pytest.mark.parametrize("name", ["x" * 300, "a/b", "..", "$(id)", "a\nb", "-rf", ""])
def test_run_names_are_safe_as_folder_names(name):
    values = to_dict(load())
    values["run"]["name"] = name
    with pytest.raises(UserError) as caught:
        from_dict(values)
    assert caught.value.key == "run.name"
    assert "\n" not in str(caught.value)


def test_a_configuration_survives_its_file():
    for overrides in ([], ["optimizer=adamw", "train.steps=7"], ["schedule=step", "checkpoint.every=9"]):
        before = load(*overrides)
        assert from_dict(to_dict(before)) == before


def test_the_run_id_follows_science_alone():
    same = run_id(load())
    assert run_id(load("run.root=/elsewhere", "checkpoint.every=3", "train.log_every=1")) == same
    assert run_id(load("resources.ranks=2", "train.batch_size=16")) == same
    for change in ("seed=1", "optimizer.lr=0.1", "train.batch_size=16", "train.epochs=3", "model=mlp"):
        assert run_id(load(change)) != same
    assert run_id(load("run.name=mine")).startswith("mine-")


def test_every_setting_of_the_dataclasses_stands_in_conf():
    """A user finds each setting by --cfg job: none lives in code alone."""
    shown = compose.compose(["experiment=lenet_digits"])
    options = [compose.compose([f"task={name}"])["task"] for name in compose.groups()["task"]]
    shown["task"] = {key for option in options for key in option}
    for group in ("train", "comm", "resources", "run", "checkpoint", "precision", "task", "cluster"):
        kind = type(getattr(load(), group))
        assert set(shown[group]) == {f.name for f in dataclasses.fields(kind)}, group


@pytest.mark.parametrize("group", ["model", "optimizer", "schedule", "precision", "task", "data", "cluster"])
def test_every_option_of_every_group_is_valid(group, tmp_path, monkeypatch):
    monkeypatch.setenv("HPCTRAIN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("one two three\n" * 9)
    for option in compose.groups()[group]:
        if (group, option) != ("model", "custom"):
            given = [f"data.path={tmp_path}/text.txt"] if option in ("text", "hugging_face") else []
            given += (
                ["data.num_classes=10"] if family(option) is Family.PICTURE else []
            )  # else the pictures tell
            values = compose.compose([f"{group}={option}", *given])
            assert values[group]["name"]


def test_a_bare_word_is_an_experiment():
    assert derive.load(["lenet_digits", "seed=3"]) == derive.load(["experiment=lenet_digits", "seed=3"])
