"""config.yaml of a run: read as plain containers, or refused in one line that says why."""

import json

import pytest
import yaml

from hpctrain.errors import UserError
from hpctrain.storage.config_file import read_config, write_config
from hpctrain.storage.json_files import parse

AGAIN = "`hpctrain train` or `submit` with the run's settings makes it again once it is removed"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "config.yaml"


def refused(path, **how):
    with pytest.raises(UserError) as caught:
        read_config(path, **how)
    assert caught.value.key == "config.yaml"
    return caught.value


def test_settings_are_plain_containers(path):
    path.write_text("a: {b: [1, 2.5, null]}\nc: ä\n", encoding="utf-8")
    assert read_config(path) == read_config(path, own=True) == {"a": {"b": [1, 2.5, None]}, "c": "ä"}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"# only this\n", "empty"),
        (b"[1, 2]", "not a table of settings"),
        (b"1: 2", "not a table of settings"),
        (b"a: [1\nb: 2\n", "did not find expected ',' or ']', line 2"),
        (b"a: !strange 1", "could not determine a constructor for the tag '!strange', line 1"),
        (
            b"a: \0",
            'unacceptable character #x0000: control characters are not allowed in "<unicode string>", position 3',
        ),
        (b"a: \xff", "'utf-8' codec can't decode byte 0xff in position 3: invalid start byte"),
    ],
)
def test_damage_is_told_with_what_to_do(path, content, why):
    path.write_bytes(content)
    error = refused(path)
    assert (error.value, error.allowed) == (path, f"is damaged ({why}); {AGAIN}")
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (yaml.MarkedYAMLError("while scanning"), "while scanning"),
        (yaml.YAMLError("two\n  lines " + 100 * "x"), "two lines " + 90 * "x"),
        (RecursionError(), "nested too deeply"),
    ],
)
def test_whatever_the_parser_says_is_one_line(path, monkeypatch, error, why):
    def load(*_, **__):
        raise error

    path.write_text("a: 1\n")
    monkeypatch.setattr(yaml, "load", load)
    assert refused(path).allowed == f"is damaged ({why}); {AGAIN}"


def test_what_is_not_there_is_not_damaged(path):
    assert refused(path).allowed == f"is missing; {AGAIN.removesuffix(' once it is removed')}"


def test_what_is_no_file_is_damaged(path):
    path.mkdir()
    assert refused(path).allowed == f"is damaged (not a regular file); {AGAIN}"


def test_what_others_could_have_written_is_shown_and_not_used(path):
    path.write_text("a: 1\n")
    path.chmod(0o666)
    assert read_config(path) == {"a": 1}
    error = refused(path, own=True)
    others = "is not believed: others may write there (mode 0666): look at it, then chmod go-w"
    assert (error.value, error.allowed) == (str(path), others)


def test_a_configuration_that_a_study_has_kept_as_json_is_written_plainly(path):
    """A study's part holds the configurations of its runs: what is read there goes into config.yaml."""
    values = {"model": {"name": "lenet", "sizes": [{"width": 1}, None, 0.5]}, "seed": 0}
    part = parse(path, json.dumps({"trials": [{"config": values}]}).encode(), dict)
    write_config(path, part["trials"][0]["config"])
    assert read_config(path) == values
    assert "!" not in path.read_text()
