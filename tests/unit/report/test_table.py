"""Tables: numbers to the right with the same decimals, and what becomes of a narrow terminal."""

import pytest
from rich.cells import cell_len

from hpctrain.report.table import Column, figures, fixed, lines, places, shortened, texts


@pytest.mark.parametrize(
    ("means", "halves", "decimals"),
    [
        ([0.8957, 0.89, 0.0712], [], 4),
        ([0.8957, 0.89], [0.0327, 0.0301], 3),
        ([0.8957, 0.89], [0.0327, None, 0.0004], 5),
        ([5679.0, 509.0, 992.0], [23.0, 8.0, 31.0], 0),
        ([0.8, 0.7], [0.0, 0.0], 4),  # no spread says nothing of decimals
        ([80.0, 110.0, 1e30], [], 1),
        ([], [], 0),
        ([0.0], [], 0),
        ([float("nan"), float("inf")], [], 0),
        ([-2.4, -2.3], [], 3),
    ],
)
def test_decimals_of_a_column(means, halves, decimals):
    assert places(means, halves) == decimals


def test_figures_have_the_same_decimals():
    assert figures("loss", [0.89, 0.07123, None, 12.0]).cells == ["0.8900", "0.0712", "–", "12.0000"]
    assert fixed(1e30, 1) == "1e+30"
    assert fixed(-12345.67, 1) == "-12,345.7"


def test_settings_are_as_they_were_given():
    assert texts("momentum", [0.0, 0.9, 0.95]).cells == ["0.00", "0.90", "0.95"]
    assert texts("lr", [0.0125399, 1.0, 1e-5]).cells == ["0.01254", "1", "1e-05"]
    assert texts("batch", [32, 1024]).cells == ["32", "1024"]
    assert texts("epochs", [2.0, 10.0]).cells == ["2", "10"]
    mixed = texts("x", [1, "a", None, True])
    assert (mixed.cells, mixed.values) == (["1", "a", "–", "True"], None)
    assert texts("b", [True, False]).values is None


TABLE = [
    texts("#", [1, 10]), figures("accuracy", [0.9, 0.85]), texts("model", ["lenet", "resnet18"]),
    texts("optimizer.lr", [0.1, 0.01]),
]  # fmt: skip


def test_numbers_stand_to_the_right_and_words_to_the_left():
    assert lines(TABLE, 100) == [
        " #  accuracy  model     optimizer.lr",
        " 1    0.9000  lenet             0.10",
        "10    0.8500  resnet18          0.01",
    ]


def test_a_narrow_terminal_has_the_table_in_parts():
    assert lines(TABLE, 24) == [
        " #  accuracy  model",
        " 1    0.9000  lenet",
        "10    0.8500  resnet18",
        "",
        " #  optimizer.lr",
        " 1          0.10",
        "10          0.01",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [20, 40, 60, 80, 140])
def test_no_line_is_wider_than_the_terminal(width):
    many = [texts("#", [1, 2]), *(texts(f"setting{n}", [n, n * 1000]) for n in range(12))]
    found = lines(many, width)
    assert max(map(len, found)) <= width
    assert {cell for column in many for cell in (column.head, *column.cells)} == set(" ".join(found).split())


def test_a_column_wider_than_the_terminal_is_shown_all_the_same():
    assert lines([texts("#", [1]), texts("x", ["y" * 30])], 10) == [
        f"#  x{' ' * 29}".rstrip(), f"1  {'y' * 30}"
    ]  # fmt: skip


def test_long_and_wide_letters():
    assert shortened("abcdefghij", 5) == "ab…ij"
    assert shortened("abc", 5) == "abc"
    found = lines([Column("学习率", ["🙂", "z" * 90]), texts("n", [1, 2])], 100)
    assert {cell_len(line) for line in found} == {43}
