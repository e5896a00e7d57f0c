"""What others' texts may hold, and what of it is shown."""

import pytest

from hpctrain.shown import shown


@pytest.mark.parametrize(
    ("word", "said"),
    [("x", None), ("eyJhbGciOiJIUzI-", None), ("a-token-", None), ("://", None), ("sk-", "***"),
     ("authorization:", "authorization:***")],
)  # fmt: skip
def test_a_line_of_a_million_letters_has_an_answer(word, said):
    """A pattern that is tried from every letter to the end takes hours; pytest's timeout ends it."""
    line = word * (10**6 // len(word))
    assert shown(line) == (said or line)
