"""The teaching page says what the code computes: the worked example, its costs, and the figures it shows."""

import importlib.util
import re
from pathlib import Path

import pytest

from hpctrain.commands import flops

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "networks.md").read_text(encoding="utf-8")


# Worked out by hand, from the picture and the filter of the document that this project began with.
CONVOLVED = [
    [4, -2, -2, 5, 0, 1],
    [2, 0, -4, 5, 1, -3],
    [1, 1, 0, 3, 1, -2],
    [3, 0, -2, 5, 3, 0],
    [2, 1, -1, 2, 6, 1],
    [4, 0, -4, 4, 3, 1],
]


@pytest.fixture(scope="module")
def figures():
    spec = importlib.util.spec_from_file_location("figures", DOCS / "figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_worked_example_is_what_torch_computes(figures):
    values = figures.convolved()
    assert values[0, 0] == 4
    by_hand = [
        [int((figures.IMAGE[i : i + 3, j : j + 3] * figures.FILTER).sum()) for j in range(6)]
        for i in range(6)
    ]
    assert values.tolist() == by_hand
    assert figures.convolved(2).tolist() == [row[::2] for row in by_hand[::2]]
    assert by_hand == CONVOLVED
    printed = re.search(r"((?:   (?: [ -]?\d){6}\n){6})", PAGE)[1]
    assert [[int(v) for v in line.split()] for line in printed.strip().splitlines()] == by_hand


def test_a_vertical_line_is_what_the_filters_answer_to(figures):
    import torch

    line, flat = torch.zeros(9, 9), torch.ones(9, 9)
    line[:, 4] = 1
    for kernel in figures.VERTICAL.values():
        assert sum(map(sum, kernel)) == 0
        assert figures.filtered(line, kernel).max() > figures.filtered(line.T, kernel).max()
        assert figures.filtered(flat, kernel).abs().max() < 1e-6


def test_every_figure_is_made_and_shown(figures):
    shown = set(re.findall(r"\(figures/(\w+)\.png\)", PAGE))
    assert shown == set(figures.FIGURES) == {path.stem for path in (DOCS / "figures").glob("*.png")}
    assert figures.one_hot().get_axes()[0].get_title() == "5 words, a dictionary of 4"


@pytest.mark.parametrize("model", ["perceptron", "lenet", "lstm"])
def test_quoted_costs_are_the_commands(model, capsys):
    flops.main([f"model={model}"])
    said = capsys.readouterr().out.replace(" ", "")
    quoted = re.search(rf"`?hpctrain flops model={model}`?.*?\n((?:\n|    .*\n)+)", PAGE)[1]
    lines = [line.replace(" ", "") for line in quoted.splitlines() if line.strip()]
    assert len(lines) >= 2
    assert all(line in said for line in lines)


@pytest.mark.parametrize(
    "page", [*sorted(DOCS.glob("*.md")), DOCS.parent / "README.md"], ids=lambda path: path.name
)
def test_what_a_shell_would_eat_is_quoted(page):
    """No setting with a bracket, a star or the like begins without a quotation mark."""
    assert not re.findall(r"[`\s][\w.]+=\w*[(*{<|;&][^`\s]*", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", ["slurm.md", "checkpoints.md", "architecture.md"])
def test_the_tests_that_a_page_names_exist(page):
    named = re.findall(
        r"`(?:tests/)?((?:slurm|integration|unit)/[\w/]+\.py)(?:::(\w+))?`", (DOCS / page).read_text()
    )
    assert named
    for path, name in named:
        file = DOCS.parent / "tests" / path
        assert file.is_file(), path
        assert not name or re.search(rf"(class|def) {name}\b", file.read_text()), (path, name)
