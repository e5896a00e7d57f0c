"""The loop as a reader meets it: how far it is from a process's start to a step, and what it shares with whom."""

import ast
import inspect
import json
import subprocess
import sys

from hpctrain.config.load import to_dict
from hpctrain.data.derive import load
from hpctrain.storage.run_dir import RunDir
from hpctrain.training import loop

# Says which of the package's functions a step was called through. A rank redirects its output, so into a file.
WATCHED = """
import json, sys, traceback
from pathlib import Path
import hpctrain
from hpctrain.training.step import Trainer

PACKAGE = Path(hpctrain.__file__).parent
step = Trainer.step

def watched(self, *args, **kwargs):
    files = [(Path(f.filename), f.name) for f in traceback.extract_stack()]
    path = [(str(f.relative_to(PACKAGE)), name) for f, name in files if f.is_relative_to(PACKAGE)]
    Path(sys.argv[1], "path.json").write_text(json.dumps(path))
    return step(self, *args, **kwargs)

Trainer.step = watched
from hpctrain.storage.run_dir import RunDir
from hpctrain.training.worker import work
sys.exit(work(RunDir(Path(sys.argv[1])), "token"))
"""


def test_a_step_is_at_most_five_calls_away(tmp_path):
    config = load(["lenet_digits", "data.train_limit=32", "data.validation_limit=8", "train.steps=1"])
    run = RunDir(tmp_path / "runs" / "s" / "r")
    run.create(to_dict(config))
    done = subprocess.run([sys.executable, "-c", WATCHED, str(run.path)], capture_output=True, text=True)
    assert done.returncode == 0, run.rank_log(1, 0).read_text()
    path = json.loads((run.path / "path.json").read_text())
    path.append(["training/step.py", "step"])  # which stood where the watch stands
    files = [file.removeprefix("training/").removesuffix(".py") for file, _ in path]
    assert list(dict.fromkeys(files)) == ["worker", "session", "loop", "step"]
    assert len(path) <= 5, path
    names = [name for _, name in path]
    assert len(set(names)) == len(names), names
    assert "main" not in names  # that is the command's


def test_no_closure_of_the_loop_changes_what_it_shares():
    tree = ast.parse(inspect.getsource(loop))
    assert [node for node in ast.walk(tree) if isinstance(node, ast.Nonlocal | ast.Global)] == []
