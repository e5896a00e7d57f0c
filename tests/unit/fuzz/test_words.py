"""Whatever is typed, or stands in a file, is answered in one line: no traceback, no "internal error", nothing written.

Seeded: each run tries the same inputs, 200 configurations here and 2,000 with the mark `long`. A bound on the time of
an answer is pytest's timeout and an alarm, not a figure that is compared.
"""

import contextlib
import io
import re
import shutil
import signal
import sys

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hpctrain import cli
from hpctrain.config import compose, conf_files
from hpctrain.config.conf_files import groups

CONF = conf_files.conf_dir()
ANSWER_S = 60  # for one input, on a machine with other work


def say(argv):
    """Returns exit code, stdout and stderr of a command, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    signal.alarm(ANSWER_S)
    kept = sys.argv
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(argv)
    finally:
        signal.alarm(0)
        sys.argv = kept
    return code, out.getvalue(), err.getvalue()


def judge(argv, folder=None):
    """The oracle. `folder`: where a refusal must leave nothing."""
    code, out, err = say(argv)
    told = f"{argv}\n{code}\n{out[-500:]}\n{err}"
    assert code in (0, 1, 2), told
    assert "Traceback" not in out + err, told
    assert "internal error" not in err, told
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f]", out + err), told
    if code:
        assert err.startswith("hpctrain: "), told
    if code == 2:
        *notes, last = err.splitlines()
        assert folder is None or not notes, told  # of files that are damaged as well
        assert re.fullmatch(r"hpctrain: [^=]+=.*: .+", last), told
        assert not re.match(r"hpctrain: (config|settings)=", last), told
        if folder is not None:
            assert not list(folder.iterdir()), told
    return code


@pytest.fixture
def here(tmp_path, monkeypatch, read_once):
    """An empty folder; jobs are made ready, but nothing is started."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HPCTRAIN_DEBUG", raising=False)
    monkeypatch.delenv("HPCTRAIN_ROOT", raising=False)
    monkeypatch.setattr("hpctrain.scheduler.submit.check_here", lambda config: None)
    monkeypatch.setattr("hpctrain.scheduler.submit.submit", lambda *args: "1")
    return folder


def keys(values, prefix=""):
    for name, value in values.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{name}.")


KEYS = sorted(
    {
        *keys(compose.compose(["cluster=devcluster"])), *groups(), "nosuch", "learning_rate", "cluster.environment.A",
        "cluster.environment.A-B", "cluster.sbatch.time", "cluster.sbatch.x", "+model.new", "++a.b", "~train", "",
        "~optimizer.lr", "model.target", "hydra.run.dir", "optimizer@x", "data.shape.0", "a b", "ä",
    }
)  # fmt: skip
VALUES = [
    "", "null", "true", "0", "1", "2", "-1", "1.5", "1e400", "nan", "inf", "-inf", "99999999999999999999", "1e12",
    "abc",
    "[]", "[1,2]", "[1,2,3]", "[[1]]", "{}", "{a:1}", "{a:{b:[1]}}", "[", "{", "'", '"', "${x}", "${oc.env:HOME}",
    "${oc.env:NO_SUCH}", "${optimizer.lr}", "${", "$(id)", "`id`", "a=b", "a,b", "0,1", "range(3)", "glob(*)",
    "interval(0,1)", "f(x)", "ä", "node[01-03,07]", "'a\nb'", "'\x1b[31mred'", "'a\x00b'", "\udcff", "x" * 5000,
    "../..", "/dev/null", "/proc/x", "'[/x]'", "%j", "1:30:00", "1_000", "lenet", "digits", "slurm", "local",
    "json:loads", "this:that", "a..b:c", "ghp_" + 36 * "a", "https://a:b@c", "-x", "--help", "\\", "🙂",
]  # fmt: skip
OVERRIDES = st.builds(lambda key, value: f"{key}={value}", st.sampled_from(KEYS), st.sampled_from(VALUES))
RECIPES = ["lenet_digits", "lstm_ptb_medium", "resnet50_imagenet", "nosuch", "model=mlp"]
COMMANDS = [["submit"], ["submit", "--dry-run"], ["submit", "--json"], ["sweep", "--dry-run"], ["flops"], ["forecast"],
            ["scale", "--dry-run"]]  # fmt: skip
SHORT = settings(max_examples=200, derandomize=True, deadline=None, database=None,
                 suppress_health_check=list(HealthCheck), phases=[Phase.generate])  # fmt: skip
LONG = settings(SHORT, max_examples=2000)


def configuration(here, command, recipe, overrides):
    words = [recipe] if recipe != "lenet_digits" else [recipe, "cluster=devcluster"]
    assert judge([*command, *words, *overrides], here) != 1, f"{overrides}: no work was begun that could fail"
    empty(here)


def empty(folder):
    """What one input has rightly written is not the next one's fault."""
    for left in folder.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()


CONFIGURATION = (st.sampled_from(COMMANDS), st.sampled_from(["lenet_digits"] * 8 + RECIPES),
                 st.lists(OVERRIDES, min_size=1, max_size=3))  # fmt: skip


@SHORT
@given(*CONFIGURATION)
def test_no_configuration_is_without_an_answer(here, command, recipe, overrides):
    configuration(here, command, recipe, overrides)


@pytest.mark.long
@pytest.mark.timeout(3600)
@LONG
@given(*CONFIGURATION)
def test_no_configuration_of_many_is_without_an_answer(here, command, recipe, overrides):
    configuration(here, command, recipe, overrides)


@pytest.mark.parametrize("root", ["x" * 5000, "/" + "x/" * 2500, "x" * 300])
def test_a_name_that_no_disk_takes(here, root):
    assert judge(["submit", "--dry-run", "lenet_digits", "cluster=devcluster", f"run.root={root}"], here) == 2


FLAGS = [
    "--json", "--root", "--study", "--root=nosuch", "--study=/etc", "--phase", "--phase=done", "--rank=x", "--rank=-1",
    "--tokens=0", "--temperature=nan", "--top-k=0", "--format=x", "--step=x", "--output=/dev/null/x", "--diff", "--csv",
    "--plot=x.xyz", "--metric=x", "--retry=x", "--unlock=x", "--steps=1", "--nosuch", "-x", "--", "-", "--keep-last=0",
    "--shard-mb=x", "--from=x", "--write=../x", "--help", "-h", "--csv=/proc/x", "--html=/proc/x", "--latex=x",
    "--top=x", "run.root=", "run.root=nosuch", "run.study=x", "nosuch", "", "pack", "verify", "list", "../..",
    "/etc/passwd", "optimizer.lr=x", "train.epochs=-1", "cluster=nosuch", "model=nosuch", "input=3x", "batch=0",
    "[/x]", "\x1b[1m",
    "\udcff", "x" * 5000, "%j",
    "--cfg", "--cfg=x", "-cn", "--config-dir=/nosuch", "--multirun", "--info", "--package",
]  # fmt: skip
# These would start something, or measure for a minute, were their settings right.
WORKING = {"train": ["seed=x"], "submit": ["seed=x"], "sweep": ["seed=x"], "bench": ["seed=x"], "scale": ["seed=x"],
           "doctor": ["--no-job", "seed=x"], "models": ["--nosuch"]}  # fmt: skip
ARGUMENTS = (st.sampled_from(sorted(cli.COMMANDS)), st.lists(st.sampled_from(FLAGS), max_size=3))


@settings(SHORT, max_examples=60)
@given(*ARGUMENTS)
def test_no_arguments_are_without_an_answer(here, command, words):
    arguments(here, command, words)


def arguments(here, command, words):
    if {"--help", "-h"} & {*words}:
        with contextlib.suppress(SystemExit):  # of argparse, after the help
            say([command, *words])
        return
    judge([command, *WORKING.get(command, []), *words], here)
    empty(here)


@pytest.mark.long
@pytest.mark.timeout(3600)
@LONG
@given(*ARGUMENTS)
def test_no_arguments_of_many_are_without_an_answer(here, command, words):
    arguments(here, command, words)
