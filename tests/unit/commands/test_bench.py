"""`hpctrain bench`: what it refuses before anything is started."""

import pytest

from hpctrain.commands import bench
from hpctrain.errors import UserError


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--steps", "4"], "--steps=4: must be a whole number ≥ 5"),
        (["--steps=many"], "--steps=many: must be a whole number ≥ 5"),
        (["--steps"], "--steps=: needs a value"),
        (["--fast"], "flag=--fast: must be one of --steps, --synthetic, --json, --root, --study, --help"),
        (["lenet_digit"], "experiment=lenet_digit: "),
        (
            ["char_lstm_python", "--synthetic", "data.vocabulary_size=9"],
            "noise replaces images; data=python_stdlib are not images",
        ),
        (["lenet_digits", "resources.ranks=0"], "resources.ranks=0: must be ≥ 1"),
    ],
)
def test_bad_input_is_one_line(words, said):
    with pytest.raises(UserError) as error:
        bench.main(words)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
