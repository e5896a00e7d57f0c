"""The arrows of the design, and what may be imported where: read from the source, and from a real start."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "hpctrain"

# Who may import whom: a package may use those to its left, and itself.
ALLOWED = {
    "models": set(),
    "data": set(),
    "tasks": {"data", "models"},
    "flops": {"models", "data"},
    "report": {"flops"},
    "training": {"models", "data", "tasks", "flops", "report"},
    "launch": {"models", "data", "tasks", "flops", "report", "training"},
    "studies": {"models", "data", "flops", "report", "launch", "training"},
}


def imports(path):
    """Every module that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_data_flows_one_way(path):
    place = path.relative_to(PACKAGE).parts
    if place[0] not in ALLOWED:
        return
    used = {name.split(".")[1] for name in imports(path) if name.startswith("hpctrain.")} & ALLOWED.keys()
    assert used - {place[0]} <= ALLOWED[place[0]]


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("horovod", {"training/comm.py"}),
        ("mpi4py", {"training/comm.py"}),
        ("submitit", {"launch/submit.py"}),
        ("optuna", {"studies/search.py"}),
        ("omegaconf", {"compose.py", "compose_sweep.py"}),
        ("hydra", {"compose.py", "compose_sweep.py"}),
    ],
)
def test_a_library_has_one_home(library, homes):
    users = {
        str(path.relative_to(PACKAGE))
        for path in SOURCES
        if any(name.split(".")[0] == library for name in imports(path))
    }
    assert users == homes


@pytest.mark.parametrize(
    "module",
    [
        "hpctrain.cli", "hpctrain.config", "hpctrain.compose", "hpctrain.run_dir", "hpctrain.launch.commands",
        "hpctrain.launch.slurm", "hpctrain.launch.submit", "hpctrain.launch.status", "hpctrain.launch.follow",
        "hpctrain.data", "hpctrain.data.sampler", "hpctrain.training.schedule", "hpctrain.training.interval",
        "hpctrain.studies.scale", "hpctrain.studies.predict_command", "hpctrain.studies.scale_report",
        "hpctrain.study_dir", "hpctrain.studies.sweep", "hpctrain.studies.report", "hpctrain.launch.study",
        "hpctrain.data.tokens", "hpctrain.generate",
    ],
)  # fmt: skip
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
