"""`hpctrain checkpoints`, on checkpoints of a small network."""

import json
from pathlib import Path

import pytest

from hpctrain import cli
from hpctrain.checkpoints import store
from hpctrain.storage import lock


def hpctrain(*argv):
    return cli.main(list(argv))


def test_list(run, capsys):
    assert hpctrain("checkpoints") == 0
    out = capsys.readouterr().out
    assert "step_000000002.t1-2" in out
    assert "(best)" in out
    assert hpctrain("checkpoints", "net", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["checkpoints"]
    assert [(r["step"], r["state"], r["epoch"]) for r in rows] == [
        (1, "committed", 0.5), (2, "committed", 1.0), (3, "committed", 1.5), (4, "committed", 2.0),
    ]  # fmt: skip


def test_verify_names_what_is_broken_and_touches_nothing(run, capsys):
    assert hpctrain("checkpoints", "--verify", "--json") == 0
    assert {r["state"] for r in json.loads(capsys.readouterr().out)["checkpoints"]} == {"good"}
    name = store.entries(run.checkpoints)[2].name
    file = run.checkpoints / name / "tensors.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert hpctrain("checkpoints", "--verify") == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "SHA-256" in shown
    assert (run.checkpoints / name).is_dir()


def test_diff(run, tmp_path, capsys):
    assert hpctrain("checkpoints", "--diff", "2", "2") == 0
    assert "the same, bit for bit" in capsys.readouterr().out
    assert hpctrain("checkpoints", "--diff", "1", "2", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["same"]
    assert {d["name"].split("/")[0] for d in found["differences"]} == {"model", "ema"}
    assert any(fact["name"] == "step" for fact in found["facts"])
    path = run.checkpoints / store.entries(run.checkpoints)[0].name
    assert hpctrain("checkpoints", "--diff", str(path), "1") == 0


def test_prune_keeps_the_last_and_the_best(run, capsys):
    assert hpctrain("checkpoints", "--prune", "--keep-last", "1") == 0
    assert [entry.step for entry in store.entries(run.checkpoints)] == [2, 4]
    assert "deleted 2" in capsys.readouterr().out
    assert hpctrain("checkpoints", "--prune") == 0
    assert "nothing to delete" in capsys.readouterr().out


def test_prune_and_unlock_refuse_while_the_run_is_written(run, capsys):
    lock.acquire(run.checkpoints, 2)  # by this very process, which lives
    assert hpctrain("checkpoints", "--prune") == 1
    assert "RUN_LOCKED" in capsys.readouterr().err
    assert hpctrain("checkpoints", "--unlock") == 1
    assert "RUN_LOCKED" in capsys.readouterr().err


def test_unlock_takes_an_owner_on_another_machine_for_ended(run, capsys):
    term = lock.acquire(run.checkpoints, 2)
    term._write(host="elsewhere", boot="b p", machine="m")
    with pytest.raises(Exception, match=r"RUN_LOCKED.*hpctrain checkpoints net-0123456789 --unlock"):
        lock.acquire(run.checkpoints, 3)
    assert hpctrain("checkpoints", "--unlock") == 0
    lock.acquire(run.checkpoints, 3)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("checkpoints", "nothing"), "no such run"),
        (("checkpoints", "--diff", "1", "22"), "--diff=22: must be one of 1, 2, 3, 4 (did you mean 2?)"),
        (("checkpoints", "--prune", "--keep-last", "0"), "--keep-last=0: must be ≥ 1"),
    ],
)
def test_wrong_input_is_one_line(run, capsys, argv, said):
    assert hpctrain(*argv) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1
    assert [path.name for path in Path().iterdir()] == ["runs"]
