"""Presets that somebody wrote by hand, with whatever mistake: one line that names the group and the file."""

import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from test_words import LONG, SHORT, VALUES, here, judge

from hpctrain.config import conf_files

__all__ = ["here"]

CONF = conf_files.conf_dir()
PRESETS = {"cluster": "devcluster", "model": "lenet", "optimizer": "sgd", "task": "classification", "data": "digits",
          "schedule": "cosine", "experiment": "lenet_digits"}  # fmt: skip
COMMANDS = [["submit", "--dry-run"], ["flops"], ["sweep", "--dry-run", "seed=1,2"], ["train", "--cfg", "job"]]
BOMB = "x: &x [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{new}: &{new} [{','.join(10 * [f'*{old}'])}]\n" for old, new in zip("xabcdef", "abcdefg", strict=True)
)
LINES = [
    "\tname: x", "name: [1, 2", "name: {a: 1", "name: 'x", 'name: "x', "name: x\nname: y", "a: b: c", "  name: x",
    "- name", "name", ": x", "?", "? [a, b]\n: c", "name: &a {b: *a}", "<<: *nosuch", "<<: {name: 3}",
    "name: !!python/object:os.system x", "name: !x y", "---\nname: x", "...", "%YAML 9.9", "name: 12:00:00",
    "name: 1e400", "name: .nan", "name: .inf", "1: 2", "null: 2", "[a]: b", "true: x", "name: |\n x\n y", "name: >",
    "defaults: x", "defaults: [nosuch]", "defaults: [{x: y}]", "defaults: [{override /model: nosuch}]",
    "# @package _global_", "# @package nosuch", "name: 2026-01-01", "name: 0o17", "name: ${x}", "name: ${",
    "name: ???", "name: @x", "name: `x`", "name: %x", "\x00", "name: \x1b[31m", "ä: ö", "name: \ufeff",
    "name: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", "a.b: c", "hydra: {run: {dir: /tmp/x}}",
    "environment: {A-B: 1}", "sbatch: {time: 1:00:00}", "modules: x", "setup: {a: b}", "target: x:y",
    "batch_size: true", BOMB,
]  # fmt: skip
KEYS = [
    "name",
    "lr",
    "kind",
    "partition",
    "environment",
    "sbatch",
    "shape",
    "padding",
    "defaults",
    "train",
    "model",
]
LINE = st.sampled_from(LINES) | st.builds("{}: {}".format, st.sampled_from(KEYS), st.sampled_from(VALUES))
EDIT = st.tuples(st.sampled_from(["add", "replace", "remove", "indent", "cut"]), st.integers(0, 40), LINE)
PRESET = (st.sampled_from(COMMANDS), st.sampled_from(sorted(PRESETS)), st.lists(EDIT, min_size=1, max_size=2))


@pytest.fixture
def conf(here, tmp_path, monkeypatch):
    """A conf/ of the user's own; what is called mine in it is read anew in each example."""
    folder = shutil.copytree(CONF, tmp_path / "conf")
    for module in ("conf_files", "compose", "quick"):
        monkeypatch.setattr(f"hpctrain.config.{module}.conf_dir", lambda: folder)
    return folder


def edited(text, edits):
    lines = text.splitlines()
    for how, at, line in edits:
        at %= len(lines) + 1
        if how == "add":
            lines.insert(at, line)
        elif how == "cut":
            lines[at:] = [line[: len(line) // 2]]
        else:
            there = lines[at : at + 1]
            lines[at : at + 1] = {
                "replace": [line],
                "remove": [],
                "indent": [f"   {each}" for each in there],
            }[how]
    return "\n".join(lines) + "\n"


def preset(here, conf, command, group, edits):
    path = conf / group / "mine.yaml"
    content = edited((CONF / group / f"{PRESETS[group]}.yaml").read_text(), edits)
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    if command == ["flops"]:
        if group != "model":
            return
        words = ["model=mine"]
    elif group == "experiment":
        words = ["mine", "cluster=devcluster"]
    else:
        words = ["lenet_digits", *([] if group == "cluster" else ["cluster=devcluster"]), f"{group}=mine"]
    assert judge([*command, *words], here) != 1, f"no work was begun that could fail: {content}"


@settings(SHORT, max_examples=80)
@given(*PRESET)
def test_no_preset_is_without_an_answer(here, conf, command, group, edits):
    preset(here, conf, command, group, edits)


@pytest.mark.long
@pytest.mark.timeout(3600)
@LONG
@given(*PRESET)
def test_no_preset_of_many_is_without_an_answer(here, conf, command, group, edits):
    preset(here, conf, command, group, edits)
