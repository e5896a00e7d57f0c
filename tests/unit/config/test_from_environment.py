"""References to variables in settings: what they hold is read when it is used, and never written down."""

import subprocess

import pytest

from hpctrain.config import from_environment
from hpctrain.config.from_environment import as_shell, put_back, reference, references, resolve
from hpctrain.errors import UserError


@pytest.fixture(autouse=True)
def variables(monkeypatch):
    monkeypatch.setenv("HERE", "/h")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("ABSENT", raising=False)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (("A",), "${oc.env:A}"),
        (("A", "b"), "${oc.env:A,b}"),
        (("A", 3), "${oc.env:A,3}"),
        (("A", None), "${oc.env:A,null}"),
        (("A", ""), "${oc.env:A,}"),
    ],
)
def test_a_reference_is_written_as_it_was_given(given, text):
    assert reference(*given) == text


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("${oc.env:HERE}", "/h"),
        ("${oc.env: HERE }", "/h"),
        ("a/${oc.env:HERE}/${oc.env:EMPTY}b", "a//h/b"),
        ("${oc.env:HERE,/d}", "/h"),
        ("${oc.env:ABSENT,/d}", "/d"),
        ("${oc.env:ABSENT,}", ""),
        ("${oc.env:ABSENT,null}", None),
        ("null", "null"),
        ("${optimizer.lr}", "${optimizer.lr}"),
        (7, 7),
        (None, None),
    ],
)
def test_what_the_variable_holds_is_put_in_its_place(text, held):
    assert resolve(text) == held


def test_containers_are_copied_with_what_their_variables_hold():
    values = {"a": {"b": ["${oc.env:HERE}", 1]}, "c": ("${oc.env:HERE}",)}
    assert resolve(values) == {"a": {"b": ["/h", 1]}, "c": ["/h"]}
    assert values["a"]["b"][0] == "${oc.env:HERE}"


@pytest.mark.parametrize(
    ("values", "given", "key"),
    [
        ({"a": {"b": [0, "${oc.env:ABSENT}"]}}, (), "a.b.1"),
        ("${oc.env:ABSENT}", ("data.path",), "data.path"),
        ({"b": "${oc.env:ABSENT}"}, ("data",), "data.b"),
        ({1: "${oc.env:ABSENT}"}, (), "1"),
    ],
)
def test_a_variable_that_is_not_set_is_named(values, given, key):
    with pytest.raises(UserError) as refusal:
        resolve(values, *given)
    assert str(refusal.value) == f"{key}=${{oc.env:ABSENT}}: the variable ABSENT is not set in your shell"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain", "plain"),
        ("", "''"),
        ("it's $HOME", "'it'\"'\"'s $HOME'"),
        ("${oc.env:HERE}", '"${HERE}"'),
        ("a b/${oc.env:HERE}/c", "'a b/'\"${HERE}\"/c"),
        ("${oc.env:HERE}${oc.env:EMPTY}", '"${HERE}""${EMPTY}"'),
        ('${oc.env:ABSENT,a "$b` \\c}', '"${ABSENT-a \\"\\$b\\` \\\\c}"'),
    ],
)
def test_a_shell_reads_the_variable_itself(text, written):
    assert as_shell(text) == written
    said = subprocess.run(["bash", "-c", f"printf %s {written}"], capture_output=True, text=True)
    assert said.stdout == resolve(text)


def test_references_are_found_with_their_keys():
    values = {
        "a": {"b": ["x", "${oc.env:HERE}"]},
        "c": ("${oc.env:A,1}",),
        3: "a${oc.env:B}",
        "d": "${optimizer.lr}",
    }
    found = [("a.b.1", "${oc.env:HERE}"), ("c.0", "${oc.env:A,1}"), ("3", "a${oc.env:B}")]
    assert list(references(values)) == found
    assert list(references({"b": "${oc.env:B}"}, "a")) == [("a.b", "${oc.env:B}")]


@pytest.mark.parametrize(
    ("values", "key", "after"),
    [
        ({"a": {"b": "/h"}}, "a.b", {"a": {"b": "${oc.env:HERE}"}}),
        ({"a": "/h"}, "a", {"a": "${oc.env:HERE}"}),
        ({"a": [{"b": ["x", "/h"]}]}, "a.0.b.1", {"a": [{"b": ["x", "${oc.env:HERE}"]}]}),
        ({"a": {"b": "/other"}}, "a.b", {"a": {"b": "/other"}}),
        ({"a": ["/other"]}, "a.0", {"a": ["/other"]}),
        ({}, "a.b", {}),
    ],
)
def test_a_setting_that_still_has_it_refers_to_its_variable_again(values, key, after):
    put_back(values, key, "${oc.env:HERE}")
    assert values == after


def test_a_number_that_a_variable_held_does_too(monkeypatch):
    monkeypatch.setenv("HERE", "7")
    values = {"a": {"b": 7}}
    put_back(values, "a.b", "${oc.env:HERE}")
    assert values == {"a": {"b": "${oc.env:HERE}"}}
    assert from_environment.resolve(values) == {"a": {"b": "7"}}
