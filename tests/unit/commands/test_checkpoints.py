"""`hpctrain checkpoints` and `hpctrain export`, on checkpoints of a small network."""

import json
from pathlib import Path

import pytest
import torch

from hpctrain import cli, models
from hpctrain.checkpoints import store
from hpctrain.checkpoints.saver import Checkpointer
from hpctrain.config.compose import load
from hpctrain.config.settings import to_dict
from hpctrain.storage import lock
from hpctrain.storage.run_dir import RunDir
from hpctrain.training import state
from hpctrain.training.comm import Comm


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with checkpoints of the steps 1 to 4; the second is the best, the last has averaged weights."""
    monkeypatch.chdir(tmp_path)
    config = load(["experiment=lenet_digits", "train.ema_decay=0.9", "checkpoint.keep_last=4"])
    run = RunDir(tmp_path / "runs" / "default" / "net-0123456789")
    run.create(to_dict(config))
    torch.manual_seed(0)
    model = models.build("lenet", config.model.settings)
    live = state.Live(model, torch.optim.SGD(model.parameters(), 0.1), 0.9)
    device = torch.device("cpu")
    with lock.acquire(run.checkpoints, 1) as term:
        saver = Checkpointer(run.checkpoints, config.checkpoint, 1, 1e6, term)
        saver.restore()
        for step in range(1, 5):
            with torch.no_grad():
                model[-1].bias.add_(1.0) if hasattr(model, "__getitem__") else None
                next(iter(model.parameters())).add_(1.0)
            live.average()
            meta = {"step": step, "epoch": step / 2, "samples": step}
            saver.save(state.capture(live, Comm(), device, meta), metric=abs(step - 2.2))
        saver.finish()
    return run


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
        (("export", "--format", "onx"), "(did you mean onnx?)"),
        (("export", "--step", "9"), "--step=9: must be best, last or one of 1, 2, 3, 4"),
        (("export", "--weights", "best"), "must be one of auto, ema, model"),
        (("export", "--output", "no/where.pt"), "must be in a folder that exists"),
    ],
)
def test_wrong_input_is_one_line(run, capsys, argv, said):
    assert hpctrain(*argv) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1
    assert [path.name for path in Path().iterdir()] == ["runs"]


def weights_of(run, step, kind):
    from hpctrain.checkpoints.saver import read

    entry = next(e for e in store.entries(run.checkpoints) if e.step == step)
    found = read(run.checkpoints, entry).tensors
    return {k.removeprefix(f"{kind}/"): v for k, v in found.items() if k.startswith(f"{kind}/")}


def test_export_safetensors(run, capsys):
    from safetensors.torch import load_file

    assert hpctrain("export") == 0
    assert "averaged (ema) weights of step 4" in capsys.readouterr().out
    found = load_file("net-0123456789-step4.safetensors")
    for name, tensor in weights_of(run, 4, "ema").items():
        assert torch.equal(found[name], tensor)
    assert hpctrain("export", "--step", "best", "--weights", "model", "--output", "w.safetensors") == 0
    found = load_file("w.safetensors")
    assert found.keys() == weights_of(run, 2, "model").keys()
    assert all(torch.equal(found[k], v) for k, v in weights_of(run, 2, "model").items())
    models.build("lenet", load(["experiment=lenet_digits"]).model.settings, weights="w.safetensors")


@pytest.mark.parametrize("form", ["torchscript", "onnx"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_export_for_other_programs_computes_the_same(run, form):
    config = load(["experiment=lenet_digits"])
    model = models.build("lenet", config.model.settings)
    model.load_state_dict(weights_of(run, 4, "model") | weights_of(run, 4, "ema"))
    model.eval()
    (example,) = models.example_inputs("lenet", config.model.settings, 2, device="cpu")
    inputs = torch.randn_like(example)
    with torch.no_grad():
        expected = model(inputs)
    assert hpctrain("export", "--format", form, "--output", "net") == 0
    if form == "torchscript":
        found = torch.jit.load("net")(inputs)
    else:
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator("net")
        found = torch.from_numpy(evaluator.run(None, {evaluator.input_names[0]: inputs.numpy()})[0])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_broken_checkpoint_is_not_exported(run, capsys):
    (run.checkpoints / store.entries(run.checkpoints)[-1].name / "meta.json").write_text("{}")
    assert hpctrain("export") == 1
    assert "NO_VALID_CHECKPOINT" in capsys.readouterr().err
