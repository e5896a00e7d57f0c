"""Files of a run or a study that are damaged in any way: every command that reads them says so, and goes on or ends."""

import json
import os
import random
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_words import judge

from hpctrain.config.load import to_dict
from hpctrain.data import identify
from hpctrain.data.derive import load
from hpctrain.data.identify import run_id
from hpctrain.storage.run_dir import RunDir
from hpctrain.sweep.study_dir import StudyDir

TOKENS = {"kind": "character", "tokens": ["<unk>", "a"]}
RUN_FILES = {
    "config.yaml": None, "state.json": None, "identity.json": None, "submission.json": {"job_ids": ["1"]},
    "pause.json": {"epochs": 1}, "metrics.jsonl": {"step": 1}, "profile.json": {"ranks": 1}, "vocabulary.json": TOKENS,
    "attempts/1/rank_0.json": {"rank": 0}, "attempts/1/failure.json": {"reason": "ERROR"},
    "attempts/1/rank_0.log": "a",
    "attempts/1/token": "x", "launcher.log": "a", "checkpoints/step_00000001/manifest.json": {},
    "start/terms/1.json": {}, "checkpoints/terms/1.json": {}, "cancel": "", "provenance.json": {},
}  # fmt: skip
STUDY_FILES = {
    ".study/parts/1.json": {"trials": []}, ".study/submissions.json": {"job_ids": ["1"]}, ".study/ended/x.0.json": {},
    ".study/jobs/x.json": {}, ".study/suggested/1.json": {}, ".study/claims/x.0.1.json": {},
    "scaling.json": {"mode": "weak"}, ".study/journal.log": "x",
}  # fmt: skip
DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(b'{"phase": "do'),
    "list": lambda path: path.write_text("[]"),
    "null": lambda path: path.write_text("null"),
    "types": lambda path: path.write_text('{"phase": 5, "job_ids": "77", "epochs": [], "trials": {"a": 1}}'),
    "deep": lambda path: path.write_text("[" * 100_000),
    "random": lambda path: path.write_bytes(random.Random(0).randbytes(999)),
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "link": lambda path: path.symlink_to("/etc/passwd"),
    "loop": lambda path: path.symlink_to(path.name),
    "huge": lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), 2**40),
}  # fmt: skip
COMMANDS = [["status"], ["status", "--json"], ["status", "RUN"], ["status", "--study", "s"], ["logs", "RUN"],
            ["report", "s"],
            ["resume", "RUN"], ["checkpoints", "RUN"], ["checkpoints", "RUN", "--verify"],
            ["generate", "RUN", "--tokens", "1"],
            ["export", "RUN", "--step", "best"], ["cancel", "RUN"], ["cancel", "--study", "s"],
            ["sweep", "lenet_digits", "seed=1,2", "--dry-run", "run.study=s"],
            ["scale", "lenet_digits", "cluster=devcluster", "--dry-run", "run.study=s"],
            ["forecast", "lenet_digits", "cluster=devcluster"]]  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch, read_once):
    """A run that is done, in a study, with one file of each kind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("hpctrain.scheduler.submit.submit", lambda *args: "1")
    config = load(["lenet_digits", "run.study=s"])
    made = RunDir(tmp_path / "runs" / "s" / run_id(config))
    made.create(to_dict(config))
    identify.note(made, config)
    made.state.beat(phase="done", reason="DONE", step=7, attempt=1)
    StudyDir(made.path.parent).create()
    for folder, files in ((made.path, RUN_FILES), (made.path.parent, STUDY_FILES)):
        for name, content in files.items():
            if content is not None and name != ".study/journal.log":
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(json.dumps(content))
    return made


def damage(path, how):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    DAMAGES[how](path)


NAMES = [*RUN_FILES, *(f"../{name}" for name in STUDY_FILES)]


@pytest.mark.parametrize("how", DAMAGES)
def test_no_damage_is_without_an_answer(run, how):
    """Each file so damaged, with one of the commands; the long test has them all."""
    draw = random.Random(how)
    for name in NAMES:
        answer(run, name, how, draw.choice(COMMANDS))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("how", DAMAGES)
def test_no_damage_is_without_an_answer_of_any_command(run, how):
    for name in NAMES:
        for command in COMMANDS:
            answer(run, name, how, command)


def answer(run, name, how, command):
    path = run.path / name
    kept = shutil.copytree(run.path.parent, run.path.parents[2] / "kept", symlinks=True)
    damage(path, how)
    judge([run.run_id if word == "RUN" else word for word in command])
    shutil.rmtree(run.path.parent)
    kept.rename(run.path.parent)
