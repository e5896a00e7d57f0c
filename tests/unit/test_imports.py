"""The arrows of docs/architecture.md, and what may be imported where: read from the source, and from a real start."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "hpctrain"

# From the bottom up: a file may import its own package, and packages of the rows before its own.
ROWS = (
    ("shown",),
    ("errors", "patience"),
    ("hardware", "job_environment"),
    ("storage",),
    ("models", "report"),
    ("config",),
    ("flops",),
    ("data",),
    ("tasks",),
    ("checkpoints",),
    ("scheduler",),
    ("training",),
    ("launch",),
    ("sweep", "scaling"),
    ("commands",),
    ("cli",),
)
HEIGHT = {place: row for row, places in enumerate(ROWS) for place in places}
STUBS = {"studies"}  # names that jobs queued by version 0.1.0 hold

SOURCES = sorted(PACKAGE.rglob("*.py"))


def module_of(path):
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {module_of(path): path for path in SOURCES}


def imports(path):
    """Every module that a file imports, at its top, inside a function or for type checking."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import hides where it leads"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def place(module):
    return module.split(".")[1] if "." in module else module


def test_every_package_has_its_row():
    places = {place(name) for name in MODULES} - {"hpctrain"} - STUBS
    assert places == HEIGHT.keys()


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_down(path):
    here = place(module_of(path))
    if here in {"hpctrain"} | STUBS:
        return
    there = {place(name) for name in imports(path) if name.startswith("hpctrain.")} - {here}
    assert {other for other in there if HEIGHT.get(other, 99) >= HEIGHT[here]} == set()


def test_no_circle():
    """Imports inside functions count: what hides a circle is a circle."""
    graph = {
        name: {other for other in imports(path) if other in MODULES and other != name}
        for name, path in MODULES.items()
    }
    graphlib.TopologicalSorter(graph).prepare()  # a CycleError names the modules


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("horovod", {"training/comm.py"}),
        ("mpi4py", {"training/comm.py"}),
        ("submitit", {"scheduler/checked.py", "scheduler/submit.py"}),
        ("optuna", {"sweep/samplers.py"}),
        ("omegaconf", {"config/compose.py", "config/sweep_grammar.py"}),
        ("hydra", {"config/compose.py", "config/sweep_grammar.py"}),
    ],
)
def test_a_library_has_one_home(library, homes):
    users = {
        str(path.relative_to(PACKAGE))
        for path in SOURCES
        if any(name.split(".")[0] == library for name in imports(path))
    }
    assert users == homes


# What commands on a login node start with.
@pytest.mark.parametrize("module", sorted(
    name for name in MODULES
    if place(name) in {"cli", "config", "storage", "commands", "scheduler", "launch", "sweep", "scaling", "hardware"}
))  # fmt: skip
def test_a_login_node_needs_no_torch(module):
    heavy = "('torch', 'horovod', 'submitit')"
    code = f"import sys, {module}; print(sorted(m for m in {heavy} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_project_speaks_of_itself_alone():
    for path in [*SOURCES, *(PACKAGE.parent / "conf").rglob("*.yaml")]:
        text = path.read_text()
        assert str(PACKAGE.parent) not in text, path
        assert str(Path.home()) + "/" not in text or Path.home() == Path("/"), path
