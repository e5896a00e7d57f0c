"""Mistakes in YAML that was written by hand: the file, the line, and what is wrong."""

import pytest

from hpctrain.config import yaml_files
from hpctrain.errors import UserError

BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{new}: &{new} [*{old},*{old},*{old},*{old},*{old},*{old},*{old},*{old},*{old},*{old}]\n"
    for old, new in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\n\tb: 2\n", "line 2: a tab: indent with spaces"),
        ("a: 1\nb: [1, 2\nc: 3\n", "line 3: a bracket is not closed, or a comma is missing"),
        ("a: 1\nb: 2\na: 3\n", "line 3: a is given twice"),
        ("a: b: c\n", "line 1: a second colon in one line, or wrong indentation: quote the value"),
        ("x: 1\nsbatch:\n  time: 12:00:00\n", "line 3: 12:00:00 is a number in base 60 to YAML"),
        ("- 1\n", "line 1: must be a table of settings"),
        ("just words\n", "line 1: must be a table of settings"),
        ("?\n", "line 1: the name of a setting must be a word"),
        ("a: 1\n[b]: 2\n", "line 2: the name of a setting must be a word"),
        ("# @packag\na: 1\n", "line 1: must be # @package NAME, or begin without @"),
        (BOMB, "values, with its aliases unfolded"),
        ("a: " + 60 * "[" + 60 * "]", "is nested too deeply"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path, text, said):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        yaml_files.check("cluster", path)
    assert said in str(caught.value)
    assert "mine.yaml" in str(caught.value)


def test_a_reference_that_cannot_be_followed_is_named_with_its_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("a: ${b}\nc: [1, 'x ${oc.']\n")
    with pytest.raises(UserError, match=r"line 2: its \$\{\.\.\.\} cannot be followed"):
        yaml_files.check("model", path, lambda text: "}" in text)


@pytest.mark.parametrize(
    "text", ["", "a: {b: [1, 2]}\n", "time: '12:00:00'\n", "a: &x [1]\nb: *x\n", "# only words\n"]
)
def test_plain_files_pass(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    yaml_files.check("cluster", path)


def test_what_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        yaml_files.check("cluster", path)
