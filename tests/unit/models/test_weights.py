"""hpctrain.models.factory: names as published, weight files, targets, seeds and devices."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hpctrain.errors import UserError
from hpctrain.models import build, example_inputs
from hpctrain.models.settings import NETWORKS, SETTINGS
from hpctrain.models.settings_image import LeNetSettings, PerceptronSettings, ResNet18Settings

GOLDEN = Path(__file__).parents[2] / "golden" / "torchvision"
SETTINGS_OF = {"googlenet": {"variant": "torchvision", "auxiliary": True}}
SMALL = PerceptronSettings(input_shape=(1, 2, 3), num_classes=4)


@pytest.mark.parametrize("published", sorted(path.stem for path in GOLDEN.glob("*.txt")))
def test_names_and_shapes_are_torchvisions(published):
    name, _, norm = published.partition("_")
    settings = SETTINGS_OF.get(name, {}) | ({"batch_norm": True} if norm else {})
    state = build(name, SETTINGS[name](**settings), device="meta").state_dict()
    listing = [f"{key} {'x'.join(map(str, tensor.shape)) or 'scalar'}" for key, tensor in state.items()]
    assert sorted(listing) == sorted((GOLDEN / f"{published}.txt").read_text().splitlines())


def test_every_settings_class_has_a_constructor():
    assert set(NETWORKS) == set(SETTINGS)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_load_exactly(tmp_path, suffix):
    file = tmp_path / f"weights{suffix}"
    state = build("perceptron", SMALL).state_dict()
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    loaded = build("perceptron", SMALL, weights=file).state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_weights_turn_a_meta_model_real(tmp_path):
    save_file(build("perceptron", SMALL).state_dict(), tmp_path / "w.safetensors")
    model = build("perceptron", SMALL, device="meta", weights=tmp_path / "w.safetensors")
    assert not any(p.is_meta for p in model.parameters())


def test_files_older_than_the_counter_load(tmp_path):
    settings = ResNet18Settings(width=1, stem="cifar", input_shape=(3, 8, 8))
    state = build("resnet18", settings).state_dict()
    torch.save({k: v for k, v in state.items() if "num_batches" not in k}, tmp_path / "old.pth")
    build("resnet18", settings, weights=tmp_path / "old.pth")


def test_every_misfit_is_named(tmp_path):
    state = build("lenet", LeNetSettings()).state_dict()
    state["c1.weight"] = state["c1.weight"][:5].clone()
    state["extra.one"] = state.pop("f6.bias")
    state["extra.two"] = torch.zeros(3)
    torch.save(state, tmp_path / "bad.pt")
    with pytest.raises(UserError) as error:
        build("lenet", LeNetSettings(), weights=tmp_path / "bad.pt")
    text = str(error.value)
    assert "missing: f6.bias" in text
    assert "unexpected: extra.two, extra.one" in text or "unexpected: extra.one, extra.two" in text
    assert "c1.weight (5x1x5x5 where 6x1x5x5 is needed)" in text
    assert "\n" not in text


class Unsafe:
    def __reduce__(self):
        return Path.touch, (Path(self.mark),)

    def __init__(self, mark):
        self.mark = str(mark)


def test_unreadable_files(tmp_path):
    (tmp_path / "text.safetensors").write_text("not a weight file")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"model": Unsafe(tmp_path / "ran")}, tmp_path / "code.pt")
    for file, said in [
        ("none.pt", "no such file"),
        ("text.safetensors", "not a readable weight file"),
        ("list.pt", "must hold a state dict"),
        ("code.pt", "not a readable weight file"),
    ]:
        with pytest.raises(UserError, match=said) as error:
            build("perceptron", SMALL, weights=tmp_path / file)
        assert error.value.key == "model.weights"
        assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_target_gets_the_settings(tmp_path, monkeypatch):
    model = build("custom", {"in_features": 3, "out_features": 2}, target="torch.nn:Linear")
    assert isinstance(model, nn.Linear)
    (tmp_path / "users_own_network.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Linear):\n"
        "    def __init__(self, width):\n        super().__init__(width, 1)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert build("custom", {"width": 5}, target="users_own_network:Net").in_features == 5


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("torch.nn", "must be package.module:Class"),
        ("no_such_package:Net", "there is no module no_such_package"),
        ("torch.nn:NoSuchClass", "cannot be imported"),
        ("math:sqrt", "must name a subclass of torch.nn.Module"),
        ("torch:Tensor", "must name a subclass of torch.nn.Module"),
        ("torch.nn:Linear", "cannot be built from these settings"),
    ],
)
def test_wrong_targets(target, said):
    with pytest.raises(UserError, match=said) as error:
        build("custom", {"width": 3}, target=target)
    assert error.value.key == "model.target"


def test_unknown_model_names_the_nearest():
    with pytest.raises(UserError, match="did you mean resnet50"):
        build("resnet5", SMALL)


def test_seed_fixes_the_weights():
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(build("lenet", LeNetSettings(variant="1998")).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_targets_input_shape_must_be_given():
    assert example_inputs("custom", {}, 2, input_shape=(3, 4, 5))[0].shape == (2, 3, 4, 5)
    with pytest.raises(UserError, match="input=3x224x224"):
        example_inputs("custom", {}, 2)


def test_a_misfit_is_found_before_a_run_starts(tmp_path):
    from hpctrain.data.derive import load
    from hpctrain.launch.prepare import prepare

    torch.save({"extra": torch.zeros(1)}, tmp_path / "bad.pt")
    settings = ["experiment=lenet_digits", f"run.root={tmp_path}/runs", f"model.weights={tmp_path}/bad.pt"]
    with pytest.raises(UserError, match=r"missing: c1\.weight.*unexpected: extra"):
        prepare(load(settings))
    assert not (tmp_path / "runs").exists()


class Keeping(nn.Module):
    """A layer that keeps words beside its weight."""

    def __init__(self):
        super().__init__()
        self.weight, self.words = nn.Parameter(torch.zeros(2)), {"seen": 0}

    def get_extra_state(self):
        return self.words

    def set_extra_state(self, words):
        self.words = words


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_what_a_module_keeps_beside_tensors_is_read_if_it_is_there(tmp_path, suffix):
    path, kept = tmp_path / f"w{suffix}", Keeping()
    kept.weight.data += 1
    kept.words = {"seen": 7}
    if suffix == ".pt":
        torch.save(kept.state_dict(), path)
    else:
        save_file({"weight": kept.weight.detach()}, path)
    found = build("custom", {}, target=f"{__name__}:Keeping", weights=path)
    assert found.weight.tolist() == [1, 1]
    assert found.words == {"seen": 7 if suffix == ".pt" else 0}


@pytest.mark.parametrize(("dtype", "named"), [(torch.complex64, "complex"), (torch.int32, "integer")])
def test_weights_of_other_numbers_are_refused(tmp_path, dtype, named):
    """Before, an imaginary part was dropped, and integers were taken, in silence."""
    state = {key: tensor.to(dtype) for key, tensor in build("perceptron", SMALL).state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UserError, match=rf"of other numbers: \S+ \({named} where float is needed\)"):
        build("perceptron", SMALL, weights=tmp_path / "w.pt")


def test_weights_without_names_are_refused(tmp_path):
    torch.save({1: torch.zeros(2)}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="must hold a state dict"):
        build("perceptron", SMALL, weights=tmp_path / "w.pt")
