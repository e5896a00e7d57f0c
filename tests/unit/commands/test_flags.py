"""One way to take flags: for every command --help, a wrong flag, and where its runs are."""

import json
import os

import pytest

from hpctrain import cli
from hpctrain.commands.flags import Parser, number, refuse_special, whole
from hpctrain.config import compose
from hpctrain.errors import UserError

HYDRAS_OWN = {"train"}  # its --help is Hydra's
NO_RUNS = {"flops", "models", "data"}


@pytest.mark.parametrize("command", sorted(cli.COMMANDS.keys() - HYDRAS_OWN))
def test_help_lists_the_flags(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0
    assert out.startswith(f"usage: hpctrain {command} ")
    assert ("--root" in out and "--study" in out) == (command not in NO_RUNS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_an_unknown_flag_is_one_line_with_the_nearest(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    known = "help" if command in NO_RUNS else "study"
    assert cli.main([command, f"--{known}y"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert f"flag=--{known}y: must be one of " in err
    assert err.endswith(f"(did you mean --{known}?)\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", [["--root", "R", "--study=S"], ["run.root=R", "run.study=S"]])
def test_commands_that_look_at_runs_take_their_place_in_both_spellings(place):
    parser = Parser("status", "")
    parser.add_run_place(as_settings=False)
    args = parser.take(["first", *place, "second"])
    assert (args.root, args.study, args.words) == ("R", "S", ["first", "second"])
    args = parser.take([])
    assert (args.root, args.study, args.words) == ("runs", None, [])


@pytest.mark.parametrize("place", [["--root", "R", "--study=S"], ["run.root=R", "run.study=S"]])
def test_commands_with_settings_take_it_in_both_spellings(place):
    parser = Parser("submit", "")
    parser.add_run_place(as_settings=True)
    words = parser.take(["lenet_digits", *place, "seed=1"]).words
    assert words[0] == "lenet_digits"
    assert sorted(words[1:]) == ["run.root=R", "run.study=S", "seed=1"]


@pytest.mark.parametrize("place", [["--root", "here", "--study", "s"], ["run.root=here", "run.study=s"]])
def test_the_commands_do_so(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dry = ["submit", "lenet_digits", "cluster=devcluster", "--dry-run", *place]
    assert cli.main(dry) == 0
    assert f"{tmp_path}/here/s/" in capsys.readouterr().out
    assert cli.main(["status", *place, "--json"]) == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["key"] == "run.study"
    assert f"run.study=s: no such study in {tmp_path}/here" in said.err
    for command in ("logs", "cancel", "resume", "checkpoints", "export", "generate"):
        assert cli.main([command, *place]) in (0, 2), command
        assert f"{tmp_path}/runs" not in capsys.readouterr().err
    (tmp_path / "here" / "s").mkdir(parents=True)
    assert cli.main(["report", *place]) == 2
    assert "study=s: has no runs yet" in capsys.readouterr().err


@pytest.fixture
def parser():
    parser = Parser("try", "")
    parser.add_argument("--steps", type=whole(5), default=7)
    parser.add_argument("--share", type=number)
    parser.add_argument("--retry", choices=("failed", "cancelled"))
    parser.add_argument("--follow", "-f", action="store_true")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--one", action="store_true")
    group.add_argument("--two", nargs=2)
    return parser


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--steps", "4"], "--steps=4: must be a whole number ≥ 5"),
        (["--steps=4.5"], "--steps=4.5: must be a whole number ≥ 5"),
        (["--share", "half"], "--share=half: must be a number"),
        (["--steps"], "--steps=: needs a value"),
        (["--steps="], "--steps=: needs a value"),
        (["--retry", "faild"], "--retry=faild: must be one of failed, cancelled (did you mean failed?)"),
        (["--one", "--two", "a", "b"], "--two=: not allowed with argument --one"),
        (["--two", "a"], "--two=: expected 2 arguments"),
        (["--foll"], "flag=--foll: must be one of --steps, --share, --retry, --follow, --one, --two, --help"),
        (["-x"], "flag=-x: must be one of"),
        (["a", "b"], "word=b: is one too many; hpctrain try --help says more"),
    ],
)
def test_what_is_wrong_is_one_line(parser, argv, said):
    with pytest.raises(UserError) as caught:
        parser.take(argv, most_words=1)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_flags_and_words_in_any_order(parser):
    args = parser.take(["a=1", "--steps=9", "b", "-f", "~c", "--share", "-0.5"])
    assert (args.words, args.steps, args.share, args.follow) == (["a=1", "b", "~c"], 9, -0.5, True)
    assert parser.take([]).steps == 7


def test_flags_of_another_program_stay_words_in_their_order():
    parser = Parser("train", "", passed_on=("--cfg", "-m", "--help"))
    parser.add_run_place(as_settings=True)
    words = parser.take(["lenet_digits", "--cfg", "job", "-m", "--study", "s", "seed=1,2", "--help"]).words
    assert words == ["lenet_digits", "--cfg", "job", "-m", "seed=1,2", "--help", "run.study=s"]


def test_train_knows_every_flag_of_hydras():
    from hydra._internal.utils import get_args_parser

    from hpctrain.commands.train import HYDRAS

    theirs = {flag for action in get_args_parser()._actions for flag in action.option_strings}
    assert set(HYDRAS) == theirs


@pytest.mark.parametrize(
    "name", ["plain-1.2", "ü 'quoted' $HOME %x", "a\\'b", "back\\", "a=b, c", "[x]", "~/runs"]
)
def test_any_folder_is_what_hydra_reads(name):
    parser = Parser("submit", "about")
    parser.add_run_place(as_settings=True)
    words = parser.take(["--root", f"/r/{name}"]).words
    assert compose.compose(["lenet_digits", *words])["run"]["root"] == f"/r/{name}"


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "loop"])
def test_what_is_not_a_file_is_not_replaced_by_one(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null" if kind == "device" else "x")
    with pytest.raises(UserError, match=f"--output={path}: is there and is not a file"):
        refuse_special("--output", path)


def test_a_file_and_a_new_name_may_be_written(tmp_path):
    (tmp_path / "old").touch()
    for name in ("old", "new"):
        refuse_special("--output", tmp_path / name)
