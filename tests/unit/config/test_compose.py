"""Configurations that Hydra composes: what is said of a ${...} in a file that leads nowhere."""

import pytest
from omegaconf import OmegaConf

from hpctrain.config import compose
from hpctrain.errors import UserError


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"cluster": {"account": "${nosuch.key}"}},
            "cluster.account=${nosuch.key}: no setting is named nosuch.key",
        ),
        (
            {"cluster": {"modules": ["a", "${nosuch}"]}},
            "cluster.modules.1=${nosuch}: no setting is named nosuch",
        ),
        ({"a": {"b": None, "c": "${noresolver:x}"}}, "a.c=${noresolver:x}: its ${...} cannot be followed"),
        ({"a": "${b}", "b": "${c}"}, "a=${b}: no setting is named c"),
    ],
)
def test_an_interpolation_in_a_file_that_leads_nowhere_is_named(values, said):
    with pytest.raises(UserError) as caught:
        compose.plain(OmegaConf.create(values))
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    "words", [["scaling=[1,2,3]"], ["scaling=[1,2,3]", "model=mlp"], 2 * ["scaling=[1]"]]
)
def test_a_list_in_place_of_an_option_is_named_with_its_group(words):
    with pytest.raises(UserError) as refused:
        compose.compose(["lenet_digits", *words])
    assert str(refused.value) == f"{words[0]}: must be one of strong, weak"


def test_a_name_that_no_file_can_have_is_no_option():
    for words in (["precision=" + 5000 * "x"], ["lenet_digits", "precision=" + 300 * "y"]):
        with pytest.raises(UserError, match=r"^precision=[xy]+\.\.\.[xy]+: must be one of auto, bf16, fp32$"):
            compose.compose(words)
