"""Errors are one line without control characters and secrets, and survive the way to another process."""

import pickle

import pytest

from hpctrain.errors import Damaged, Foreign, RunFailed, UserError, choose, nearest


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (("a.b", 3, "must be even"), "a.b=3: must be even"),
        (("a.b", "smal", "must be one of small", "small"), "a.b=smal: must be one of small (did you mean small?)"),
        (("a.b", "two\n  lines", "must be one"), "a.b=two lines: must be one"),
        (("a", "\x1b[31m", "must be \x07"), "a=\\x1b[31m: must be \\x07"),
        (("a", "x", "is written 'a=\n'"), "a=x: is written 'a=\\n'"),
        (("a.token", "word", "must be short"), "a.token=***: must be short"),
        (("a", 80 * "x", "is long"), f"a={80 * 'x'}: is long"),
        (("a", 40 * "x" + 41 * "y", "is long"), f"a={38 * 'x'}...{39 * 'y'}: is long"),
    ],
)  # fmt: skip
def test_a_user_s_error_names_the_key_the_value_and_what_is_allowed(given, line):
    error = UserError(*given)
    assert str(error) == line
    assert (error.key, error.value, error.allowed, error.nearest) == (*given, None)[:4]


def test_a_failure_has_its_reason():
    error = RunFailed("DISK_FULL", "token=word \x1b")
    assert (error.reason, error.detail, str(error)) == (
        "DISK_FULL",
        "token=word \x1b",
        "DISK_FULL: token=*** \\x1b",
    )


def test_a_damaged_file_is_told_from_one_that_is_not_believed():
    damaged, foreign = Damaged("/r/state.json", "empty"), Foreign("/r/state.json", "belongs to x")
    assert str(damaged) == "/r/state.json is damaged (empty)"
    assert str(foreign) == "/r/state.json is not believed: belongs to x"
    assert [(e.errno, e.filename, e.why) for e in (damaged, foreign)] == [
        (5, "/r/state.json", "empty"),
        (1, "/r/state.json", "belongs to x"),
    ]


@pytest.mark.parametrize(
    "error",
    [
        UserError("a", 3, "must be even", "four"),
        RunFailed("ERROR", "a word"),
        Damaged("/x", "empty"),
        Foreign("/x", "belongs to y"),
    ],
)
def test_an_error_goes_to_another_process_as_it_is(error):
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize(
    ("name", "names", "found"),
    [("adan", ["sgd", "adam"], "adam"), ("xyz", ["sgd", "adam"], None), (3, ["sgd"], None), ("a", [], None)],
)
def test_the_nearest_of_several_names(name, names, found):
    assert nearest(name, iter(names)) == found


def test_half_of_the_letters_are_near_enough():
    assert nearest("abcd", ["abxy"]) == "abxy"
    assert nearest("abcd", ["axyz"]) is None


def test_a_choice_lists_what_there_is():
    error = choose("a.b", "adan", {"sgd", "adam"})
    assert str(error) == "a.b=adan: must be one of adam, sgd (did you mean adam?)"
