"""Composing reads no data: marks stand where the data has the word, and go to all that refers to them."""

import sys

import pytest

from hpctrain.config import compose
from hpctrain.config.data_kinds import DATA_KINDS, DERIVED
from hpctrain.config.derived import fill, mark
from hpctrain.config.sweep_grammar import Composer
from tests import fresh

opened = None  # the paths opened or listed while a test looks; None: nobody looks


def listen(event, args):
    if opened is not None and event in ("open", "os.listdir", "os.scandir"):
        opened.append(str(args[0]))


sys.addaudithook(listen)  # one cannot be taken away again


@pytest.fixture
def looked_at(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "opened", [])
    return opened


@pytest.mark.parametrize("name", sorted(DATA_KINDS))
@pytest.mark.parametrize("there", [True, False])
def test_composing_a_data_group_looks_at_no_file_of_it(name, there, tmp_path, monkeypatch, looked_at):
    monkeypatch.setenv("HPCTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HPCTRAIN_DATA", str(tmp_path / "sets"))
    for kind in DATA_KINDS.values():
        for function in kind.derived.values():
            monkeypatch.setattr(function.replace(":", "."), None)  # a call would fail
    folder = tmp_path / "sets" / name
    if there:
        (folder / "train" / "ant").mkdir(parents=True)
        (folder / "text.txt").write_text("some text\n" * 9)
    looked_at.clear()
    values = compose.compose([f"data={name}", f"data.path={folder}"])
    assert values["data"]["path"] == str(folder)
    for setting in DATA_KINDS[name].derived:
        given = values["data"][setting]
        assert given == mark(setting) or isinstance(given, int), (
            setting
        )  # a set of known size has it in conf/
    assert looked_at, "conf/ was read, so the hook listens"
    assert [path for path in looked_at if path.startswith(str(tmp_path))] == []


def test_composing_imports_nothing_that_reads_data():
    code = (
        "import sys\nfrom hpctrain.config import compose, sweep_grammar\n"
        "words = ['data=text', 'data.path=/nowhere', 'model=lstm', 'task=language_model']\n"
        "compose.compose(words)\nsweep_grammar.Composer(words).compose(['optimizer.lr=1'])\n"
        "print([name for name in sys.modules if name.startswith('hpctrain.data')])"
    )
    assert fresh.said(code) == "[]"


def test_what_refers_to_a_setting_of_the_data_has_its_mark():
    words = [
        "data=text",
        "model=lstm",
        "model.hidden=${data.vocabulary_size}",
        "run.name=v${data.vocabulary_size}",
    ]
    for values in (compose.compose(words), Composer(words).compose(["seed=1"])):
        filled = fill(values, {"vocabulary_size": 7}.__getitem__)
        assert (filled["data"]["vocabulary_size"], filled["model"]["vocabulary_size"]) == (7, 7)
        assert (filled["model"]["hidden"], filled["run"]["name"]) == (7, "v7")
        assert values["data"]["vocabulary_size"] == mark("vocabulary_size")  # a copy was filled


def test_a_value_given_by_hand_is_no_mark():
    values = compose.compose(["data=text", "model=lstm", "data.vocabulary_size=100"])
    assert values["data"]["vocabulary_size"] == values["model"]["vocabulary_size"] == 100


@pytest.mark.parametrize("setting", DERIVED)
def test_a_mark_is_filled_wherever_it_stands(setting):
    values = {"a": [mark(setting), {"b": f"({mark(setting)})"}], "c": 1, "d": None, "e": "other"}
    asked = []
    filled = fill(values, lambda name: asked.append(name) or 3)
    assert filled == {"a": [3, {"b": "(3)"}], "c": 1, "d": None, "e": "other"}
    assert asked == [setting, setting]


def test_a_wrong_name_is_said_before_the_data_is_looked_for():
    with pytest.raises(
        compose.UserError, match=r"optimizer\.lrr=1: unknown setting \(did you mean optimizer\.lr\?\)"
    ):
        compose.compose(["data=text", "optimizer.lrr=1"])
