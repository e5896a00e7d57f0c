"""What is said of each kind of wrong setting, word by word. The errors are pydantic's own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from hpctrain.config.messages import explain
from hpctrain.config.settings import AdamConfig, LarsConfig, Name, OptimizerConfig, SgdConfig, Variable


@dataclass(frozen=True)
class Part:
    size: int = 1
    every: int | Literal["all"] = 1
    other: int | Literal["none"] = 1


@dataclass(frozen=True)
class Toy:
    """Settings of each kind that hpctrain has."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    size: Annotated[int, Ge(1), Le(100)]
    share: Annotated[float, Gt(0), Lt(1)] = 0.5
    every: Annotated[int, Ge(1)] | Literal["auto", "epoch"] = 1
    count: int | Literal["all"] = 1
    mode: Literal["min", "max"] = "min"
    text: str = ""
    name: Name = "a"
    pairs: tuple[tuple[int, int], ...] = ()
    words: Mapping[str, str | int] = field(default_factory=dict)
    variables: Mapping[Variable, str] = field(default_factory=dict)
    part: Part = Part()
    optimizer: Annotated[OptimizerConfig, Field(discriminator="name")] | None = None

    def __post_init__(self):
        if self.size == 13:
            raise ValueError("toy.size=13: must be lucky: 12 or 14")
        if self.size == 99:
            raise ValueError("no size = 99, please")


def explained(values, prefix="toy.", neighbours=lambda where: ()):
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Toy).validate_python({"size": 1} | values)
    return explain(caught.value.errors(), prefix, neighbours)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"size": 0}, "toy.size=0: must be ≥ 1"),
        ({"size": 101}, "toy.size=101: must be ≤ 100"),
        ({"share": 0}, "toy.share=0: must be > 0"),
        ({"share": 1}, "toy.share=1: must be < 1"),
        ({"size": "abc"}, "toy.size=abc: must be a valid integer"),
        ({"size": 1.5}, "toy.size=1.5: must be a valid integer, got a number with a fractional part"),
        ({"mode": "min", "size": None}, "toy.size=null: must be a valid integer"),
        ({"pairs": [[1, 2], [3]]}, "toy.pairs.1.1=: is missing"),
        ({"pairs": [[1, "x"]]}, "toy.pairs.0.1=x: must be a valid integer"),
        ({"words": {"a": [1]}}, "toy.words.a=[1]: must be a valid string"),
        ({"words": {"a": None}}, "toy.words.a=null: must be a valid string"),
        (
            {"size": "1" + "0" * 5000},
            f"toy.size=1{'0' * 37}...{'0' * 39}: must be a whole number from 0 to 1000000000000",
        ),
        ({"text": 5}, "toy.text=5: must be text, in quotes: 'toy.text=\"5\"'"),
        ({"text": False}, "toy.text=false: must be text, in quotes: 'toy.text=\"false\"'"),
        ({"part": {"size": "x"}}, "toy.part.size=x: must be a valid integer"),
        ({"mode": "mix"}, "toy.mode=mix: must be one of min, max (did you mean min?)"),
        ({"mode": 3}, "toy.mode=3: must be one of min, max"),
        ({"name": "???"}, "toy.name=: is missing"),
        (
            {"variables": {"A": "1", "2B": "1"}},
            "toy.variables.2B=: its name must be letters, digits and _ (of an option, - too), no digit first",
        ),
        ({"part": 5}, "toy.part=5: must be a group of settings"),
        ({"optimizer": 5}, "toy.optimizer=5: must be a group of settings"),
        ({"optimizer": {}}, "toy.optimizer=: is missing"),
        ({"part": {"sizes": 5}}, "toy.part.sizes=5: unknown setting"),
        ({"name": "a b"}, "toy.name='a b': letters, digits and . _ + - only, at most 100, no leading sign"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(values, said):
    assert str(explained(values)) == said


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"every": "often"}, "toy.every=often: must be a valid integer, or 'auto' or 'epoch'"),
        ({"every": 0}, "toy.every=0: must be ≥ 1, or 'auto' or 'epoch'"),
        ({"count": "few"}, "toy.count=few: must be a valid integer, or 'all'"),
        # The words of another setting that is wrong as well are not this one's.
        ({"every": 0, "count": "few"}, "toy.every=0: must be ≥ 1, or 'auto' or 'epoch'"),
        ({"part": {"every": "x", "other": "y"}}, "toy.part.every=x: must be a valid integer, or 'all'"),
        ({"share": 0, "mode": "mix"}, "toy.share=0: must be > 0"),
    ],
)
def test_a_number_or_a_word(values, said):
    assert str(explained(values)) == said


@pytest.mark.parametrize("kind", [SgdConfig(0.1), AdamConfig(0.1), AdamConfig(0.1, "adamw"), LarsConfig(0.1)])
def test_a_settings_key_does_not_name_the_kind_that_was_chosen(kind):
    assert str(explained({"optimizer": {"name": kind.name, "lr": -1}})) == "toy.optimizer.lr=-1: must be ≥ 0"


@pytest.mark.parametrize(
    ("name", "nearest"), [("sgdd", " (did you mean sgd?)"), ("larz", " (did you mean lars?)"), (3, "")]
)
def test_an_unknown_kind_is_answered_with_those_that_are(name, nearest):
    error = explained({"optimizer": {"name": name, "lr": 1}})
    said = f"toy.optimizer.name={name}: must be one of sgd, adam, adamw, lars{nearest}"
    assert (error.key, str(error)) == ("toy.optimizer.name", said)


def test_a_missing_setting():
    error = explained({"optimizer": {"name": "sgd"}})
    assert (error.key, error.value, error.allowed) == ("toy.optimizer.lr", "", "is missing")


def test_a_setting_of_another_kind_is_not_answered_with_itself():
    given = {"optimizer": {"name": "adam", "lr": 1, "momentum": 0.9}}
    said = "toy.optimizer.momentum=0.9: is not a setting of adam (chosen as toy.optimizer=adam, with its own settings)"
    assert str(explained(given, neighbours=lambda where: ["momentum"])) == said


def test_an_unknown_setting_is_answered_with_its_nearest_neighbour():
    asked = []

    def neighbours(where):
        asked.append(where)
        return ["optimizers", "momentum"]

    error = explained({"optimizer": {"name": "sgd", "lr": 1, "momentun": 0.9}}, "", neighbours)
    assert str(error) == "optimizer.momentun=0.9: unknown setting (did you mean momentum?)"
    assert asked == [["optimizer", "momentun"]]


def test_a_rule_over_several_settings_names_its_own_key():
    error = explained({"size": 13})
    assert (error.key, error.value, error.allowed) == ("toy.size", "13", "must be lucky: 12 or 14")
    nested = explained({"optimizer": {"name": "sgd", "lr": 1, "nesterov": True}})
    assert str(nested) == "optimizer.nesterov=true: needs optimizer.momentum > 0"


def test_a_rule_that_names_none_is_said_of_the_whole_group():
    assert str(explained({"size": 99})) == "toy=: no size = 99, please"


def test_of_several_errors_the_first_is_told():
    assert str(explained({"size": 0, "share": 2, "name": ""})) == "toy.size=0: must be ≥ 1"
