"""The fast path does what Hydra does, or says that Hydra is needed."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from hpctrain.config import compose, quick
from hpctrain.config.conf_files import groups
from hpctrain.errors import UserError
from tests import fresh

PARSER = OverridesParser.create()


@given(st.text("aAefilnNortTuxX_.0123459", min_size=1, max_size=6))
@example("null")
@example("True")
@example("3x224x224")
@example("1e3")
@example("010")
@example("1_000")
@example("nan")
@example("Inf")
@example(".5")
@example("yes")
def test_a_value_is_read_as_hydra_reads_it_or_not_at_all(text):
    found = quick.read(f"a.b={text}")
    if found is not None:
        value = PARSER.parse_override(f"a.b={text}").value()
        assert found == ("a.b", value)
        assert type(found[1]) is type(value)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("a=3", 3),
        ("a=1.5", 1.5),
        ("a=null", None),
        ("a=false", False),
        ("a=bf16", "bf16"),
        ("a=3x8x8", "3x8x8"),
    ],
)
def test_plain_words_need_no_hydra(word, value):
    assert quick.read(word) == ("a", value)


@pytest.mark.parametrize(
    "word", ["a", "a=", "+a=1", "~a", "a=[1]", "a=1,2", "a=1e-3", "a='b'", "a/b=c", "A=1", "a=-1"]
)
def test_other_words_need_hydra(word):
    assert quick.read(word) is None


@pytest.mark.parametrize("group", ["model", "optimizer"])
def test_every_option_is_composed_as_hydra_does(group):
    quickly = 0
    for name in groups()[group]:
        words = [f"{group}={name}", "batch=8", "run.epochs=1.5", "input=3x32x32", "device=null"]
        found = quick.compose(words, "flops")
        quickly += found is not None
        assert found in (None, compose.compose(words, "flops")), name
    assert quickly >= len(groups()[group]) - 1  # `custom` has values that must be given


@pytest.mark.parametrize(
    "words",
    [
        ["scenario=resnet152_imagenet"],  # a package, and defaults of its own
        ["model=nosuch"],
        ["batch=1", "batch=2"],
        ["nosuch=1"],
        ["run=1"],
        ["run.nosuch=1"],
        ["batch.size=1"],
        ["+model.width=3"],
    ],
    ids=" ".join,
)
def test_what_takes_hydra_is_left_to_it(words):
    assert quick.compose(words, "flops") is None


def test_a_configuration_whose_groups_refer_to_each_other_is_left_to_hydra():
    assert quick.compose([], "config") is None


def test_counting_imports_no_hydra():
    code = (
        "import sys\nfrom hpctrain.flops.request import request\n"
        "request(['model=lstm', 'batch=4', 'optimizer=adam'])\n"
        "print([name for name in ('hydra', 'omegaconf', 'torch') if name in sys.modules])"
    )
    assert fresh.said(code) == "[]"


def test_an_assignment_sets_what_is_there_alone():
    values = {"a": {"b": 1, "c": {}}, "d": None}
    assert quick.assign(values, "a.b", 2)
    assert quick.assign(values, "d", [3])
    assert not any(quick.assign(values, key, 4) for key in ("a", "a.c", "a.x", "a.b.x", "x", "x.y", "d.e"))
    assert values == {"a": {"b": 2, "c": {}}, "d": [3]}


def test_a_run_s_settings_change_as_hydra_would_change_them():
    values = compose.compose(["lenet_digits"])
    words = ["optimizer.lr=1e-3", "train.clip_norm=null", "train.image_sizes=[[0,16]]", "run.name='a-b'"]
    assert compose.change(values, words) == compose.compose(["lenet_digits", *words])
    assert values == compose.compose(["lenet_digits"])
    assert compose.change(values, ["cluster.environment={A:b}"])["cluster"]["environment"] == {"A": "b"}


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("optimizer.lrr=1", "optimizer.lrr=1: unknown setting (did you mean optimizer.lr?)"),
        ("model=mlp", "model=mlp: single values can change here, no whole groups"),
        ("train.epochs.x=1", "train.epochs.x=1: unknown setting (did you mean train.epochs?)"),
        (
            "train.epochs=1,2",
            "train.epochs=1,2: several values are for hpctrain sweep; as one text they are written "
            "'train.epochs=\"1,2\"'",
        ),
        (
            "=1",
            "word==1: must be key=value, and a key is names joined by dots, such as optimizer.lr: letters, digits "
            "and _, no digit first",
        ),
        (
            "optimizer.lr=[1",
            "optimizer.lr=[1: cannot be read as a value; as text it is written 'optimizer.lr=\"[1\"', "
            "a list optimizer.lr=[1,2]",
        ),
    ],
)
def test_a_change_that_cannot_be_is_one_line(word, said):
    with pytest.raises(UserError) as caught:
        compose.change(compose.compose(["lenet_digits"]), [word])
    assert str(caught.value) == said
