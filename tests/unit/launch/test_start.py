"""The right to start a run: a run is submitted by whoever has it, and by nobody else."""

import ast
from pathlib import Path

import pytest

import hpctrain

PACKAGE = Path(hpctrain.__file__).parent


def uses(module, source):
    """Yields (name, where) of what a module uses of the package, as a dotted name, and the function that uses it."""
    tree = ast.parse(source)
    known = {
        node.name: f"{module}.{node.name}"
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            known |= {alias.asname or alias.name: alias.name for alias in node.names}

    def dotted(node):
        if isinstance(node, ast.Name):
            return known.get(node.id, node.id)
        return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""

    def walk(node, where):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            where = f"{where}.{node.name}"
        if isinstance(node, ast.Name | ast.Attribute):
            yield dotted(node), where
        for child in ast.iter_child_nodes(node):
            if not (isinstance(node, ast.FunctionDef) and child is node.returns):
                yield from walk(child, where)

    yield from walk(tree, module.removeprefix("hpctrain."))


def users(name):
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(("hpctrain", *path.relative_to(PACKAGE).with_suffix("").parts))
        found |= {where for used, where in uses(module, path.read_text()) if used == name}
    return found


@pytest.mark.parametrize(
    ("name", "places"),
    [
        # The doctor's job looks at two nodes, and is of no run.
        (
            "scheduler.client.submit",
            {"scheduler.submit._slurm_executor.Executor._submit_command", "launch.doctor.examine._job"},
        ),
        ("scheduler.submit._submit_slurm", {"scheduler.submit.submit"}),
        ("scheduler.submit.submit", {"launch.start.Right.submit"}),
        # Nobody else makes a right, and the one who does holds the run's term.
        (
            "launch.start.Right",
            {"launch.start.hold", "launch.standing.Standing"},
        ),  # the second names its type
        # A study's jobs are those of `sweep`, which holds the study.
        ("scheduler.submit.submit_array", {"sweep.start._submit_one"}),
        ("scheduler.submit.submit_here", {"sweep.start._submit_one", "scheduler.submit.submit"}),
    ],
)
def test_a_run_is_submitted_in_one_place(name, places):
    assert users(f"hpctrain.{name}") == places


@pytest.mark.parametrize(
    "source",
    [
        "from hpctrain.scheduler import submit\ndef f(): submit.submit(1)",
        "from hpctrain.scheduler import submit as other\ndef f(): return other.submit",
        "def f():\n    from hpctrain.scheduler.submit import submit as go\n    go(1)",
        "import hpctrain.scheduler.submit as s\ndef f(): map(s.submit, ())",
    ],
)
def test_a_use_is_seen_under_any_name(source):
    assert ("hpctrain.scheduler.submit.submit", "x.f") in set(uses("hpctrain.x", source))
