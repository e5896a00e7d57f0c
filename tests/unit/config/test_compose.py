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
