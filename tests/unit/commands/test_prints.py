"""Commands parse and print; nothing below them does, but processes of their own and what writes a rank's log."""

import ast
from pathlib import Path

import pytest

from hpctrain import cli

PACKAGE = Path(cli.__file__).parent
LOGS = {  # they write the log of a rank or of a job
    "checkpoints/policy.py",
    "checkpoints/saver.py",
    "launch/jobs.py",
    "storage/full_disk.py",
    "sweep/worker.py",
    "training/json_lines.py",
    "training/reporter.py",
}
SHOWN = {
    "launch/follow.py",  # on the streams that it is given
    "data/text/tokens.py",  # that a long reading goes on, on stderr, wherever it happens first
}
READ_ARGV = {
    "config/compose.py",  # Hydra reads sys.argv, and nothing else
    "training/provenance.py",  # the command line is a fact of the run
}
OWN_STREAMS = {"storage/output.py"}  # makes them the log of a rank or of a job


def uses(tree):
    """What a file uses of the command line and the terminal: print, argparse, sys.argv, sys.stdout, sys.stderr."""
    flushed = {id(node.value) for node in ast.walk(tree) if getattr(node, "attr", None) == "flush"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if name == "print":
                yield "print"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sys":
            if node.attr in ("argv", "stdout", "stderr") and id(node) not in flushed:
                yield f"sys.{node.attr}"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None)]
            if "argparse" in names:
                yield "argparse"


def is_a_process(tree):
    """Started by `python -m`: it has a command line and a log of its own."""
    return any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in tree.body)


BELOW = sorted(
    path for path in PACKAGE.rglob("*.py") if path.name != "cli.py" and path.parent.name != "commands"
)


@pytest.mark.parametrize("path", BELOW, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_below_the_commands_parses_or_prints(path):
    name, tree = str(path.relative_to(PACKAGE)), ast.parse(path.read_text())
    allowed = {"print", "sys.stderr"} if name in LOGS | SHOWN else set()
    if name in READ_ARGV:
        allowed.add("sys.argv")
    if is_a_process(tree):
        allowed = {"print", "sys.argv", "sys.stderr"}
    if name in OWN_STREAMS:
        allowed |= {"sys.stdout", "sys.stderr"}
    assert set(uses(tree)) <= allowed


@pytest.mark.parametrize("name", sorted(LOGS | SHOWN | READ_ARGV))
def test_the_lists_hold_nothing_else(name):
    assert set(uses(ast.parse((PACKAGE / name).read_text()))), "it needs no exception any more"


def test_one_file_per_command():
    files = {path.stem for path in (PACKAGE / "commands").glob("*.py")} - {"__init__", "flags", "say"}
    assert files == cli.COMMANDS.keys()
    assert {place for place, _ in cli.COMMANDS.values()} == {f"hpctrain.commands.{n}:main" for n in files}
