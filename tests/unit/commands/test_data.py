"""`hpctrain data`: the list, and wrong input; fetching is in tests/unit/data, packing in tests/unit/data/images."""

import json

import pytest

from hpctrain import cli
from hpctrain.config import compose


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["fetch", "mnits"], ["name=mnits", "did you mean mnist?"]),
        (["fetch"], ["must be one of cifar10"]),
        (["fetch", "mnist", "--into", "/proc/x"], ["--into=/proc/x", "cannot be written"]),
        (["fetch", "mnist", "--from", "/nosuch"], ["--from=/nosuch: must be a URL, such as https://"]),
        (["fecth"], ["word=fecth", "did you mean fetch?"]),
        (["--json", "pack", "pictures"], ["word=pack", "must come first"]),
        (["pack"], ["--into=: must be given"]),
        (["pack", "--into", "packed"], ["folder=: must be given"]),
        (["pack", "pictures", "--into", "packed", "--resize", "big"], ["--resize=big: must be a whole number"]),
        (["pack", "pictures", "--into", "packed", "--resize", "0"], ["--resize=0: must be ≥ 1"]),
    ],
)  # fmt: skip
def test_bad_input(args, words, capsys):
    assert cli.main(["data", *args]) == 2
    err = capsys.readouterr().err
    assert all(word in err for word in words)
    assert len(err.splitlines()) == 1


def test_the_list_says_where_each_set_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HPCTRAIN_DATA", str(tmp_path / "store"))
    (tmp_path / "store" / "cifar10").mkdir(parents=True)
    assert cli.main(["data", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["cifar10"]["where"] == str(tmp_path / "store" / "cifar10")
    assert rows["mnist"]["where"] is None
    assert rows.keys() == set(compose.groups()["data"])
