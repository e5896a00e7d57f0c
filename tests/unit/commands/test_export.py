"""`hpctrain export`, on checkpoints of a small network."""

from pathlib import Path

import onnxruntime
import pytest
import torch

from hpctrain import cli, models
from hpctrain.checkpoints import store
from hpctrain.data.derive import load


def hpctrain(*argv):
    return cli.main(list(argv))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("export", "--format", "onx"), "(did you mean onnx?)"),
        (("export", "--step", "9"), "--step=9: must be best, last or one of 1, 2, 3, 4"),
        (("export", "--weights", "best"), "must be one of auto, ema, model"),
        (("export", "--output", "no/where.pt"), "must be in a folder that exists"),
        (("export", "--output", "runs"), "--output=runs: is there and is not a file: give another name"),
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


def run_onnx(path, *inputs):
    """What onnxruntime makes of tensors (B, ...): its outputs, in order."""
    session = onnxruntime.InferenceSession(path)
    named = zip([given.name for given in session.get_inputs()], inputs, strict=True)
    return [torch.from_numpy(out) for out in session.run(None, {k: tensor.numpy() for k, tensor in named})]


@pytest.mark.parametrize("form", ["torchscript", "onnx"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_export_for_other_programs_computes_the_same(run, form, capsys):
    config = load(["experiment=lenet_digits"])
    model = models.build("lenet", config.model.settings)
    model.load_state_dict(weights_of(run, 4, "model") | weights_of(run, 4, "ema"))
    model.eval()
    assert hpctrain("export", "--format", form, "--output", "net") == 0
    said = capsys.readouterr()
    assert form == "torchscript" or "ONNX, for batches of any size" in said.out
    assert said.err == ""
    for batch in (1, 2, 5):
        (example,) = models.example_inputs("lenet", config.model.settings, batch, device="cpu")
        inputs = torch.randn_like(example)
        with torch.no_grad():
            expected = model(inputs)
        found = torch.jit.load("net")(inputs) if form == "torchscript" else run_onnx("net", inputs)[0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_broken_checkpoint_is_not_exported(run, capsys):
    (run.checkpoints / store.entries(run.checkpoints)[-1].name / "meta.json").write_text("{}")
    assert hpctrain("export") == 1
    assert "NO_VALID_CHECKPOINT" in capsys.readouterr().err
