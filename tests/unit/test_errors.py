"""Errors are one line without control characters and secrets, and survive the way to another process."""

import pickle
import sys

import pytest

from hpctrain.errors import (
    Closed,
    Damaged,
    Foreign,
    RunFailed,
    Uncounted,
    UserError,
    choose,
    nearest,
    place_in_code,
)


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


def raised(source, name):
    try:
        exec(compile(source, name, "exec"), {"nearest": nearest})
    except Exception as error:
        return error


def test_the_place_in_the_user_s_own_code():
    library = f"{pytest.__path__[0]}/x.py"
    assert place_in_code(raised("\n1 / 0", "/home/a/nets.py")) == "nets.py, line 2"
    # Through the user's code into a library, or into hpctrain: the user's line.
    inner = compile("def broken():\n    1 / 0", library, "exec")
    names = {}
    exec(inner, names)
    with pytest.raises(ZeroDivisionError) as caught:
        exec(compile("\n\nbroken()", "nets.py", "exec"), names)
    assert place_in_code(caught.value) == "nets.py, line 3"
    assert place_in_code(raised("\nnearest(1, 2)", "own.py")) == "own.py, line 2"


def test_code_that_is_nobody_s_has_no_place():
    import hpctrain

    for name in (
        f"{pytest.__path__[0]}/x.py", "/usr/lib/python3/dist-packages/x.py", f"{hpctrain.__path__[0]}/x.py", "<string>",
        f"{sys.base_prefix}/lib/x.py",
    ):  # fmt: skip
        assert (place_in_code(raised("1 / 0", name)) or "test_errors.py").startswith("test_errors.py"), name
    assert place_in_code(ValueError()) is None


def test_what_is_not_counted_is_a_line_without_secrets():
    assert str(Uncounted("no rule\n  for token=abc")) == "no rule for token=***"


def test_a_file_that_may_not_be_read_is_told_from_a_damaged_one():
    closed = Closed("/r/x.json", "belongs to y")
    assert (str(closed), closed.errno) == ("/r/x.json cannot be read: belongs to y", 13)
