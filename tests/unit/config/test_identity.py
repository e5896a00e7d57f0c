"""Equal science is one run: neutral settings change no id and no checkpoint, and what ids mean is pinned."""

import dataclasses
import json
from functools import cache
from pathlib import Path

import pytest

from hpctrain.config import identity, settings
from hpctrain.config.load import to_dict
from hpctrain.config.settings import Config
from hpctrain.data import derive
from hpctrain.data.identify import run_id
from hpctrain.errors import RunFailed
from hpctrain.models.settings import SETTINGS

GOLDEN = Path(__file__).parents[2] / "golden"
IDS = json.loads((GOLDEN / "ids.json").read_text())
GROUPS = ("data", "task", "optimizer", "schedule", "precision", "train", "comm")


def load(*overrides):
    return derive.load(["experiment=lenet_digits", *overrides])


loaded = cache(load)  # for what refers to no variable of the environment


@pytest.mark.parametrize("words", IDS)
def test_ids_are_those_of_this_version(words):
    """If this fails, a recipe or a default has changed what users' run ids mean: that is a break, not a new figure."""
    assert run_id(derive.load(words.split())) == IDS[words]


def test_defaults_are_those_that_ids_were_made_with():
    kinds = [
        settings.ModelConfig, settings.DataConfig, settings.TaskConfig, settings.SgdConfig, settings.AdamConfig,
        settings.LarsConfig, settings.ScheduleConfig, settings.PrecisionConfig, settings.TrainConfig,
        settings.CommConfig, *SETTINGS.values(),
    ]  # fmt: skip
    pinned = json.loads((GOLDEN / "defaults.json").read_text())
    found = {
        kind.__name__: {
            f.name: list(f.default) if isinstance(f.default, tuple) else f.default
            for f in dataclasses.fields(kind)
            if f.default is not dataclasses.MISSING and f.metadata.get("science") is None
        }
        for kind in kinds
    }
    found = json.loads(json.dumps(found))
    for kind, defaults in pinned.items():  # a new setting may join; none that is pinned may change
        assert found[kind] | defaults == found[kind], kind


def with_new_setting(config, group):
    """The same with one more setting, at its default, in `group`."""
    values = config.model.settings if group == "model" else getattr(config, group)
    wider = dataclasses.make_dataclass(
        "Wider", [("fresh", float, dataclasses.field(default=0.5))], bases=(type(values),), frozen=True
    )
    wide = wider(**{f.name: getattr(values, f.name) for f in dataclasses.fields(values)})
    if group == "model":
        return dataclasses.replace(config, model=dataclasses.replace(config.model, settings=wide))
    return dataclasses.replace(config, **{group: wide})


def changed_setting(config, group):
    """The new setting of `with_new_setting`, off its default."""
    wide = with_new_setting(config, group)
    values = dataclasses.replace(wide.model.settings if group == "model" else getattr(wide, group), fresh=1.0)
    if group == "model":
        return dataclasses.replace(wide, model=dataclasses.replace(wide.model, settings=values))
    return dataclasses.replace(wide, **{group: values})


@pytest.mark.parametrize("group", ["model", *GROUPS])
@pytest.mark.parametrize("recipe", [(), ("optimizer=adam", "model=mlp"), ("optimizer=lars", "schedule=step")])
def test_a_new_neutral_setting_changes_no_id_and_no_checkpoint(group, recipe):
    before = loaded(*recipe)
    now = with_new_setting(before, group)
    assert run_id(now) == run_id(before)
    identity.refuse_change(identity.science(before), now)
    other = changed_setting(before, group)
    assert run_id(other) != run_id(before)
    with pytest.raises(RunFailed, match=rf"{group}.fresh is 1.0, but the run was made with 0.5"):
        identity.refuse_change(identity.science(before), other)


@pytest.mark.parametrize("group", ["resources", "cluster", "run", "checkpoint"])
def test_where_and_how_a_run_is_done_is_not_science(group):
    config = load()
    assert run_id(changed_setting(config, group)) == run_id(config)


@pytest.mark.parametrize("network", SETTINGS)
def test_a_new_setting_of_any_network_changes_no_id(network):
    values = dataclasses.replace(loaded().model, name=network, settings=SETTINGS[network]())
    config = dataclasses.replace(loaded(), model=values)
    assert run_id(with_new_setting(config, "model")) == run_id(config)


def test_kinds_with_equal_settings_are_told_apart():
    sgd, adam, lars = (
        dataclasses.replace(loaded(), optimizer=kind(lr=0.1))
        for kind in (settings.SgdConfig, settings.AdamConfig, settings.LarsConfig)
    )
    assert len({run_id(sgd), run_id(adam), run_id(lars)}) == 3


def test_a_checkpoint_of_0_1_0_says_every_setting():
    """Every value was written, two of comm at the top, and the path of a text: it goes on."""
    config = load("comm.batch_norm_ranks=all")
    whole = to_dict(config)
    saved = {k: whole[k] for k in ("model", "data", "task", "optimizer", "schedule", "precision", "seed")}
    saved["data"] |= {"path": "/elsewhere/text"}
    saved["train"] = {k: whole["train"][k] for k in ("epochs", "steps", "clip_norm", "on_nan", "ema_decay")}
    saved |= {"effective_batch": config.effective_batch, "batch_norm_ranks": "all"}
    identity.refuse_change(saved, config)
    with pytest.raises(RunFailed, match=r"comm.batch_norm_ranks is 1, but the run was made with all"):
        identity.refuse_change(saved, load())


def test_a_changed_setting_is_named_and_may_be_meant():
    saved = identity.science(load())
    with pytest.raises(
        RunFailed, match=r"optimizer.lr is 0.1, but the run was made with 0.05; if that is meant"
    ):
        identity.refuse_change(saved, load("optimizer.lr=0.1"))
    identity.refuse_change(saved, load("optimizer.lr=0.1", "checkpoint.allow_change=true"))
    for key in ("data.train_limit=3", "seed=2", "train.batch_size=7"):
        with pytest.raises(RunFailed, match="samples would be taken twice or never"):
            identity.refuse_change(saved, load(key, "checkpoint.allow_change=true"))
    with pytest.raises(RunFailed, match=r"train.clip_norm is None, but the run was made with 1.0"):
        identity.refuse_change(identity.science(load("train.clip_norm=1.0")), load())


def test_what_a_variable_holds_is_noted_as_a_digest(monkeypatch):
    """A file of the run holds no value of the user's shell; the id is that of the value all the same."""
    monkeypatch.setenv("MY_FIELD", "canary")
    referring, given = load("+data.field=${oc.env:MY_FIELD}"), load("+data.field=canary")
    noted = identity.noted(referring)
    assert "canary" not in json.dumps(noted)
    assert run_id(referring) == run_id(given)
    identity.refuse_change(noted, referring)
    identity.refuse_change(noted, given)
    monkeypatch.setenv("MY_FIELD", "other")
    with pytest.raises(
        RunFailed, match=r"data.field is \$\{oc.env:MY_FIELD\}, but the run was made with sha256:"
    ):
        identity.refuse_change(noted, load("+data.field=${oc.env:MY_FIELD}"))


def test_what_refers_to_no_variable_is_noted_as_it_is():
    config = dataclasses.replace(
        loaded("data.train_limit=9", "seed=3"),
        from_environment={"data.train_limit": "${oc.env:LIMIT}", "seed": "${oc.env:SEED}"},
    )
    noted, science = identity.noted(config), identity.science(config)
    assert noted["data"].pop("train_limit").startswith("sha256:")
    assert science["data"].pop("train_limit") == 9
    assert noted == science


def refused(saved, config):
    with pytest.raises(RunFailed) as failure:
        identity.refuse_change(saved, config)
    assert failure.value.reason == "CONFIG_CHANGED"
    return failure.value.detail


MEANT = "; if that is meant: checkpoint.allow_change=true"


def test_a_setting_that_this_version_does_not_know_is_a_change():
    config = loaded()
    saved = identity.science(config)
    saved["train"] = saved["train"] | {"old": 3}
    assert refused(saved, config) == f"train.old is None, but the run was made with 3{MEANT}"


def test_one_without_a_default_that_is_missing_is_a_change():
    config = loaded()
    saved = identity.science(config)
    lr = saved["optimizer"].pop("lr")
    assert refused(saved, config) == f"optimizer.lr is {lr}, but the run was made with None{MEANT}"


def test_another_kind_is_a_change_whatever_its_settings():
    sgd, adam = (
        dataclasses.replace(loaded(), optimizer=kind(lr=0.1))
        for kind in (settings.SgdConfig, settings.AdamConfig)
    )
    said = f"optimizer.name is adam, but the run was made with sgd{MEANT}"
    assert refused(identity.science(sgd), adam) == said


def test_every_setting_of_a_user_s_class_counts():
    config = loaded()
    model = dataclasses.replace(config.model, name="custom", settings={"depth": 3, "widths": (4, 5)})
    found = identity.science(dataclasses.replace(config, model=model))["model"]
    assert (found["depth"], found["widths"]) == (3, [4, 5])


def test_every_mark_is_known():
    config = load()
    parts = [getattr(config, f.name) for f in dataclasses.fields(Config)]
    kinds = [type(part) for part in parts if dataclasses.is_dataclass(part)] + list(SETTINGS.values())
    marks = {f.metadata.get("science") for kind in kinds for f in dataclasses.fields(kind)}
    assert marks <= {None, "how", "place", "kind"}
