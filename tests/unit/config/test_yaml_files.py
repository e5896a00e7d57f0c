"""Mistakes in YAML that was written by hand: the file, the line, and what is wrong."""

import pytest
import yaml

from hpctrain.config import yaml_files
from hpctrain.errors import UserError

BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{new}: &{new} [*{old},*{old},*{old},*{old},*{old},*{old},*{old},*{old},*{old},*{old}]\n"
    for old, new in zip("abcdef", "bcdefg", strict=True)
)
TABLE = "must be a table of settings, as in name: value"
BRACKET = "a bracket is not closed, or a comma is missing"
COLON = "a second colon in one line, or wrong indentation: quote the value"
DEEP = "is nested too deeply, or holds itself"


def in_base_60(value):
    return f"{value} is a number in base 60 to YAML: write '{value}' in quotes"


def nested(depth):
    """A table of lists: the innermost value is so deep below the table."""
    return "a: " + (depth - 1) * "[" + "1" + (depth - 1) * "]"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "mine.yaml"


def refused(path):
    """Returns what is wrong with a file."""
    with pytest.raises(UserError) as caught:
        yaml_files.check("cluster", path)
    assert (caught.value.key, caught.value.value) == ("cluster", path)
    return caught.value.allowed


def test_a_character_that_yaml_does_not_take_is_not_called_a_tab(path):
    path.write_text("a: 1\nb: x\0y\n")
    assert "control characters are not allowed" in refused(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\n\tb: 2\n", "line 2: a tab: indent with spaces"),
        (
            "a: !!python/name:os.system x\n",
            "line 1: a tag such as tag:yaml.org,2002:python/name:os.system is not allowed",
        ),
        ("a: !mine x\n", "line 1: a tag such as !mine is not allowed"),
        ("a: 1\nb: [1, 2\nc: 3\n", f"line 3: {BRACKET}"),
        ("a: 1\nb: 2\na: 3\n", "line 3: a is given twice"),
        ("x:\n  a: 1\n  a: 3\n", "line 3: a is given twice"),
        ("x: [{a: 1, a: 2}]\n", "line 1: a is given twice"),
        ("a: b: c\n", f"line 1: {COLON}"),
        ("x: 1\nsbatch:\n  time: 12:00:00\n", f"line 3: {in_base_60('12:00:00')}"),
        ("x:\n- -1:30\n", f"line 2: {in_base_60('-1:30')}"),
        ("- 1\n", f"line 1: {TABLE}"),
        ("\njust words\n", f"line 2: {TABLE}"),
        ("?\n", "line 1: the name of a setting must be a word"),
        ("a: 1\n[b]: 2\n", "line 2: the name of a setting must be a word"),
        ("# @packag\na: 1\n", "line 1: must be # @package NAME, or begin without @"),
        (BOMB, "line 4: has more than 10,000 values, with its aliases unfolded"),
        (nested(51), f"line 1: {DEEP}"),
        ("a: &x [*x]\n", f"line 1: {DEEP}"),
        ("a: *x\n", "line 1: found undefined alias"),
    ],
)
def test_a_mistake_is_named_with_its_line(path, text, said):
    path.write_text(text)
    assert refused(path) == said


def test_a_reference_that_cannot_be_followed_is_named_with_its_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("a: ${b}\nc: [1, 'x ${oc.']\n")
    with pytest.raises(UserError, match=r"line 2: its \$\{\.\.\.\} cannot be followed"):
        yaml_files.check("model", path, lambda text: "}" in text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a: {b: [1, 2]}\n",
        "time: '12:00:00'\n",
        "time: 12:00:00.5\n",  # to YAML a float
        "a: &x [1]\nb: *x\n",
        "# only words\n",
        nested(50),
        "a: [" + 9997 * "1," + "]\n",
    ],
)
def test_plain_files_pass(path, text):
    path.write_text(text)
    yaml_files.check("cluster", path)


def test_ten_thousand_values_are_the_most(path):
    path.write_text("a: [" + 9998 * "1," + "]\n")
    yaml_files.check("cluster", path)
    path.write_text("a: [" + 9999 * "1," + "]\n")
    assert refused(path) == "line 1: has more than 10,000 values, with its aliases unfolded"


def test_what_cannot_be_read_is_named(path):
    path.write_bytes(b"\xff\xfe")
    assert refused(path) == "is not UTF-8 text"
    path.unlink()
    path.mkdir()
    assert refused(path) == "cannot be read: not a regular file"


def test_a_link_is_followed(path, tmp_path):
    (tmp_path / "real.yaml").write_text("- 1\n")
    path.symlink_to(tmp_path / "real.yaml")
    assert refused(path) == f"line 1: {TABLE}"


def test_one_that_no_parser_can_follow_is_nested_too_deeply(path):
    path.write_text("a: " + 100_000 * "[")
    assert refused(path) in (
        "line 1: exceeded maximum nesting depth",
        "is nested too deeply",
    )  # libyaml's, Python's


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (yaml.YAMLError("two\n  lines"), "two lines"),
        (yaml.MarkedYAMLError("while scanning", None, None, None), "while scanning"),
        (yaml.MarkedYAMLError("context", yaml.Mark("f", 0, 4, 0, None, None)), "line 5: context"),
        (yaml.MarkedYAMLError("context", None, "found character '\\t'"), "a tab: indent with spaces"),
        (yaml.MarkedYAMLError("context", None, "expected the node content"), BRACKET),
        (yaml.MarkedYAMLError("context", None, "mapping values are not allowed here"), COLON),
        (
            yaml.MarkedYAMLError(
                "context", yaml.Mark("f", 0, 4, 0, None, None), "problem", yaml.Mark("f", 0, 6, 0, None, None)
            ),
            "line 7: problem",
        ),
    ],
)
def test_pyyaml_s_complaint_is_one_line(error, said):
    found = yaml_files.explain("cluster", "mine.yaml", error)
    assert str(found) == f"cluster=mine.yaml: {said}"
