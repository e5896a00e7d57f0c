"""`hpctrain flops` and `hpctrain models`: the reference's figures, conventions, runs, bounds, wrong input."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpctrain.commands import flops as command
from hpctrain.errors import UserError
from hpctrain.flops import known
from hpctrain.flops.conventions import CONVENTIONS
from hpctrain.flops.result import from_plain, to_plain
from hpctrain.models.settings import NETWORKS, SETTINGS

REFERENCE = Path(__file__).parents[2] / "golden" / "architectures.csv"
ROWS = {row["name"]: row for row in csv.DictReader(REFERENCE.read_text().splitlines())}
ONE_D = (
    "conv_channels=[1280]",
    "conv_kernels=[[161,11]]",
    "conv_strides=[[1,2]]",
    "hidden=1280",
    "full_layers=1",
)
STREAMING = (
    "conv_channels=[32,32]", "conv_kernels=[[41,11],[21,11]]", "conv_strides=[[2,2],[2,1]]", "cell=gru",
    "bidirectional=false", "hidden=2560", "layers=3", "lookahead=80",
)  # fmt: skip

# Start of the reference's name -> the settings that ask for it.
CASES = {
    "AlexNet (torchvision": ["model=alexnet"],
    "AlexNet 2012": ["model=alexnet", "model.variant=grouped", "input=3x227x227"],
    "VGG16": ["model=vgg16"],
    "GoogLeNet torchvision (3x3": ["model=googlenet", "model.variant=torchvision"],
    "GoogLeNet torchvision with": ["model=googlenet", "model.variant=torchvision", "model.auxiliary=true"],
    "GoogLeNet paper": ["model=googlenet"],
    "ResNet-50 v1.5": ["model=resnet50"],
    "ResNet-50 v1 ": ["model=resnet50", "model.version=v1"],
    "ResNet-101 v1.5": ["model=resnet101"],
    "ResNet-152 v1.5": ["model=resnet152"],
    "ResNet-152 v1 ": ["model=resnet152", "model.version=v1"],
    "LeNet-5 modern (": ["model=lenet"],
    "LeNet-5 modern on": ["model=lenet", "model.padding=2", "input=1x28x28"],
    "Perceptron": ["model=perceptron"],
    "RNN LM": ["model=rnn"],
    "GRU LM": ["model=gru"],
    "LSTM LM": ["model=lstm"],
    "DS2 38M": ["model=deep_speech2", *(f"model.{setting}" for setting in ONE_D)],
    "DS2 ~68M": ["model=deep_speech2"],
    "DS2 ICML": ["model=deep_speech2", *(f"model.{setting}" for setting in STREAMING)],
    "GNMT": ["model=gnmt"],
    "MoE NMT": ["model=gnmt_moe"],
}
SMALL_GNMT = ["model=gnmt", "model.hidden=8", "model.vocabulary_size=20", "model.encoder_layers=2",
              "model.decoder_layers=2"]  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def ask(capsys, *args):
    assert command.main([*args, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("row", ROWS)
def test_figures_are_the_references(row, capsys):
    (settings,) = (case for start, case in CASES.items() if row.startswith(start))
    found = ask(capsys, *settings)
    assert (found["params"], found["forward_macs"]) == (
        int(ROWS[row]["params"]),
        int(ROWS[row]["forward_macs"]),
    )
    assert found["forward_flops"] == 2 * found["forward_macs"]
    assert found["convention"].startswith("flops: 2 operations a MAC")


def test_every_case_is_a_row():
    assert len(CASES) == len(ROWS)


@pytest.mark.parametrize("name", SETTINGS)
def test_known_counts_are_what_torch_counts_now(name):
    """Both counts agree (or `fresh` raises), and known.json.gz holds the same."""
    settings, batch = SETTINGS[name](), NETWORKS[name].unit.batch
    found = known.fresh(name, settings, batch)
    assert to_plain(known.counted(name, settings, batch)) == to_plain(found)
    assert from_plain(json.loads(json.dumps(to_plain(found)))).backward == found.backward


def test_a_login_node_needs_no_torch(tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from hpctrain.cli import main\n"
        "for name in sys.argv[1:]: assert main(['flops', f'model={name}', '--json']) == 0\n"
        "assert main(['flops', 'scenario=gnmt_wmt14']) == main(['models']) == 0\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *SETTINGS], cwd=tmp_path, capture_output=True, text=True, check=True,
        env=os.environ | {"COLUMNS": "140"},
    )  # fmt: skip
    figures = [json.loads(line) for line in done.stdout.splitlines()[: len(SETTINGS)]]
    assert [f["model"] for f in figures] == list(SETTINGS)
    assert all(f"{f['params']:,}" in done.stdout for f in figures)


def test_a_second_question_is_answered_from_the_cache(capsys, monkeypatch):
    first = ask(capsys, *SMALL_GNMT)
    monkeypatch.setattr(known, "fresh", None)
    assert ask(capsys, *SMALL_GNMT) == first


@pytest.mark.parametrize(
    ("settings", "published", "digits"),
    [
        # He et al. 2016, Table 1: FLOPs 3.8, 7.6, 11.3 billion.
        (["model=resnet50", "model.version=v1", "convention=resnet"], 3.9e9, 2),
        (["model=resnet101", "model.version=v1", "convention=resnet"], 7.6e9, 2),
        (["model=resnet152", "model.version=v1", "convention=resnet"], 11.3e9, 3),
        (["model=resnet50", "convention=torchvision"], 4.089e9, 4),
        (["model=vgg16", "convention=torchvision"], 15.47e9, 4),
        (["model=alexnet", "convention=torchvision"], 0.714e9, 3),
        (["model=lenet", "model.variant=1998", "convention=lenet1998"], 340_908, 6),
        # Shazeer et al. 2017, Table 2: 85M operations a time step.
        (["model=gnmt_moe", "convention=shazeer2017"], 85e6, 2),
    ],
)
def test_a_papers_convention_gives_its_figure(capsys, settings, published, digits):
    found = ask(capsys, *settings)["forward_flops"]
    assert float(f"{found:.{digits}g}") == published


@pytest.mark.parametrize("name", CONVENTIONS)
def test_every_convention_says_what_it_counts(name, capsys):
    found = ask(capsys, "model=lenet", f"convention={name}")
    macs = found["forward_macs"]
    assert macs == 416_520
    assert found["convention"].startswith(f"{name}: ")
    assert "left out: " in found["convention"]
    others = sum(ops["forward_ops"] for ops in found["by_kind"].values())
    expected = {"macs": macs, "resnet": macs, "torchvision": macs, "shazeer2017": macs,
                "all": 2 * macs + others}  # fmt: skip
    assert found["forward_flops"] == expected.get(name, found["forward_flops"])
    assert found["forward_flops"] == sum(row["forward_flops"] for row in found["layers"])


def test_padding_taps_are_told_apart(capsys):
    """28x28 padded by 2: of the 5 x 28 taps of a row or column, 2 (2 + 1) fall on padding."""
    found = ask(capsys, "model=lenet", "model.padding=2", "input=1x28x28", "convention=no_padding")
    c1 = next(row for row in found["layers"] if row["name"] == "c1")
    assert c1["forward_flops"] == 2 * 6 * (5 * 28 - 6) ** 2
    assert c1["padding_macs"] == 6 * (140**2 - 134**2)


def test_the_first_layer_has_no_input_gradient(capsys):
    found = ask(capsys, "model=resnet50")
    step = found["forward_flops"] + found["backward_flops"]
    assert round(step / found["forward_flops"], 3) == 2.971
    assert found["backward_flops"] == found["weight_grad_flops"] + found["input_grad_flops"]
    first, *rest = [row for row in found["layers"] if row["type"] == "Conv2d"]
    assert first["input_grad_flops"] == 0
    assert all(row["input_grad_flops"] == row["forward_flops"] == row["weight_grad_flops"] for row in rest)


def test_auxiliary_heads_count_in_training_only(capsys):
    settings = ("model=googlenet", "model.variant=torchvision", "model.auxiliary=true")
    training, inference = ask(capsys, *settings), ask(capsys, *settings, "mode=inference")
    assert training["forward_macs"] - inference["forward_macs"] == 1_506_748_416 - 1_498_376_192
    assert (inference["backward_flops"], inference["optimizer_flops"]) == (0, 0)


@pytest.mark.parametrize(
    ("optimizer", "momentum", "decay", "per_parameter"),
    [
        ("sgd", 0, 0, 2),
        ("sgd", 0.9, 0, 4),
        ("sgd", 0.9, 1e-4, 6),
        ("adam", None, 0, 13),
        ("adamw", None, 0.1, 14),
    ],
)
def test_the_optimizer(capsys, optimizer, momentum, decay, per_parameter):
    settings = [f"optimizer={optimizer}", f"optimizer.weight_decay={decay}"]
    settings += [f"optimizer.momentum={momentum}"] if momentum is not None else []
    found = ask(capsys, "model=perceptron", *settings)
    undecayed = 10 if optimizer == "adamw" else 0  # its default leaves biases out
    assert found["optimizer_flops"] == per_parameter * 7850 - undecayed


def test_a_mixture_of_experts(capsys):
    found = ask(capsys, "model=gnmt_moe")
    mixture = found["mixture"]
    assert mixture["params_total"] == 8_693_105_152 == found["whole"]["params"]
    assert mixture["params_active"] == 8_693_105_152 - 2 * 2044 * 2 * 512 * 2048
    assert mixture["gate_macs"] == 2 * 512 * (16 + 2048)
    assert (mixture["capacity_vectors"], mixture["expert_slots_per_vector"]) == (1, 4)
    assert mixture["dispatch_bytes"] == 2 * 2 * 4 * 512 * 4


def test_a_batch_of_many_costs_as_many_times_one(capsys):
    one, many = ask(capsys, "model=lenet"), ask(capsys, "model=lenet", "batch=7")
    for key in ("params", "forward_macs", "backward_flops", "optimizer_flops"):
        assert one[key] == many[key]
    moved = [sum(row["read_bytes"] for row in found["layers"]) for found in (one, many)]
    assert moved[1] < moved[0]  # weights are read once a batch


@pytest.mark.parametrize(
    ("scenario", "exaflops"), [("resnet152_imagenet", 7), ("deep_speech2_english", 20), ("gnmt_wmt14", 100)]
)
def test_a_scenario_reproduces_the_figure(capsys, scenario, exaflops):
    run = ask(capsys, f"scenario={scenario}")["run"]
    assert run["expected_exaflops"] == exaflops
    assert run["exaflops"] == pytest.approx(exaflops, rel=0.02)
    assert run["useful_flops"] == pytest.approx(run["samples"] * run["epochs"] * run["flops_per_sample"])
    assert run["dataset"]
    assert run["note"]


def test_a_runs_lengths_are_exact(capsys):
    """Three short counts give a length's cost: the same as counting that length."""
    plan = ("run.samples=10", "run.epochs=3", "run.batch=4", "run.ranks=2", "run.accumulate=1")
    run = ask(capsys, *SMALL_GNMT, *plan, "run.lengths={9: 0.25, 20: 0.75}")["run"]
    whole = [ask(capsys, *SMALL_GNMT, f"input={length}")["whole"] for length in (9, 20)]
    costs = [w["forward_flops"] + w["weight_grad_flops"] + w["input_grad_flops"] for w in whole]
    assert run["flops_per_sample"] == pytest.approx(0.25 * 9 * costs[0] + 0.75 * 20 * costs[1], rel=1e-12)
    assert run["steps"] == 3 * 2
    update = ask(capsys, *SMALL_GNMT)["optimizer_flops"]
    assert run["optimizer_flops"] == 6 * 2 * update


def test_the_lower_bound_names_what_binds(capsys):
    settings = (
        "model=alexnet",
        "batch=4",
        "device=NVIDIA H100 80GB HBM3",
        "dtype=bf16",
        "measured_step_s=0.01",
    )
    found = ask(capsys, *settings)
    bound = found["lower_bound"]
    assert (bound["device"], bound["peak_flops_per_s"]) == ("NVIDIA H100 SXM5", 989.4e12)
    assert "whitepaper" in bound["device_source"]
    rows = {row["name"]: row for row in found["layers"]}
    assert (rows["features.3"]["bound_by"], rows["classifier.1"]["bound_by"]) == ("compute", "memory")
    assert sum(row["bound_s"] for row in rows.values()) == pytest.approx(bound["passes_s"])
    assert bound["step_s"] == bound["passes_s"] + bound["optimizer_s"]
    assert bound["roofline_share"] == pytest.approx(bound["step_s"] / 0.01)
    flops = 4 * (found["forward_flops"] + found["backward_flops"])
    assert bound["mfu"] == pytest.approx(flops / 0.01 / 989.4e12)


def test_csv_table_and_comparison(capsys):
    command.main(["model=lenet", "--csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert sum(int(row["forward_macs"]) for row in rows) == 416_520
    command.main(["model=lenet", "device=A100"])
    shown = capsys.readouterr().out
    assert all(row["name"] in shown for row in rows)
    assert "416,520 MACs = 833,040 FLOPs" in shown
    assert "roofline     " in shown
    compared = ask(capsys, "model=resnet50", "--diff", "model=vgg16")
    assert compared["totals"]["params"] == {"a": 25557032, "b": 138357544, "ratio": 138357544 / 25557032}
    command.main(["model=resnet50", "--diff", "model=vgg16"])
    assert "138,357,544" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot(capsys, tmp_path, suffix):
    file = tmp_path / "here" / f"bars.{suffix}"
    file.parent.mkdir()
    command.main(["model=resnet50", "device=A100", "--plot", str(file), "--json"])
    start = file.read_bytes()[:200]
    assert start.startswith(b"\x89PNG") if suffix == "png" else b"<svg" in file.read_bytes()[:2000]
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_a_roofline_names_its_largest_layers_and_tells_its_bars_apart(capsys, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    command.main(["model=vgg16", "device=A100", "--plot", str(tmp_path / "a.png"), "--json"])
    capsys.readouterr()
    bars, roofline = drawn[0].axes
    hatches = [group[0].get_hatch() for group in bars.containers]
    assert len(set(hatches)) == 3
    names = [text.get_text() for text in roofline.texts]
    assert {"features.2", "features.7"} < set(names)
    assert "NVIDIA A100" in names[-1]
    assert drawn[0].get_suptitle().startswith("vgg16, one image")
    markers = {str(group.get_paths()[0]) for group in roofline.collections}
    assert len(markers) == 2, "compute-bound and memory-bound layers differ in a grey print too"


def test_measure_gives_this_machines_peaks(capsys, monkeypatch):
    from hpctrain import hardware

    whole = hardware.measure
    monkeypatch.setattr(hardware, "measure", lambda: whole(seconds=0.01, width=256, copied=2**22))
    found = ask(capsys, "--measure")
    assert found["flops_per_s"]["fp32"] > 0
    assert found["bytes_per_s"] > 0
    assert "measured" in found["source"]
    assert ask(capsys, "model=lenet", "--measure")["lower_bound"]["device"] == found["device"]


def test_any_module(capsys, tmp_path, monkeypatch):
    (tmp_path / "their_module.py").write_text(
        "import torch\n"
        "class Odd(torch.nn.Module):\n"
        "    def __init__(self, width=3):\n"
        "        super().__init__()\n"
        "        self.line = torch.nn.Linear(5, width)\n"
        "    def forward(self, x):\n"
        "        return torch.special.bessel_j0(self.line(x))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    settings = ["model=custom", "model.target=their_module:Odd", "+model.width=4", "input=5"]
    with pytest.raises(UserError, match="operator=special_bessel_j0: has no rule"):
        command.main(settings)
    found = ask(capsys, *settings, "--allow-unknown")
    assert (found["params"], found["forward_macs"]) == (24, 20)
    assert found["unknown_operators"] == ["special_bessel_j0 in (model)"]
    assert found["covered"]["params_share"] == 1.0
    command.main([*settings, "--allow-unknown"])
    assert "NOT COUNTED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["model=lenett"], ["model=lenett", "did you mean lenet?"]),
        (["model=vgg16", "input=3x8x8"], ["at least 32"]),
        (["model=vgg16", "input=3x8"], ["input=3x8", "3x224x224"]),
        (["model=lstm", "input=3x8x8"], ["a number of words"]),
        (["input=0x3x3"], ["above 0"]),
        (["model=vgg16", "model.width=0"], ["model.width=0", "≥ 1"]),
        (["model=mlp", "model.hidden=[10,-1]"], ["model.hidden.1=-1", "≥ 1"]),
        (["model=vgg16", "model.widht=3"], ["did you mean model.width?"]),
        (["batch=0"], ["batch=0"]),
        (["convention=flop"], ["did you mean flops?"]),
        (["device=TPU"], ["device=TPU", "unknown device"]),
        (["device=V100", "dtype=bf16"], ["dtype=bf16", "is known for"]),
        (["model=custom"], ["package.module:Class"]),
        (["model=custom", "model.target=nosuch.thing:Net", "input=3"], ["no module nosuch"]),
        (["model=custom", "model.target=torch.nn:Nosuch", "input=3"], ["no attribute"]),
        (["model=custom", "model.target=json:loads", "input=3"], ["subclass of torch.nn.Module"]),
        (["model=custom", "model.target=torch.nn:ReLU"], ["give the shape"]),
        (["model=custom", "model.target=torch.nn:Flatten", "input=3", "+model.nosuch=1"], ["cannot be built"]),
        (["--plot", "here.txt"], [".png, .svg, .pdf"]),
        (["--plot", "/nosuch/here.png"], ["does not exist"]),
        (["run.samples=5"], ["run.epochs", "is missing"]),
        (["run.samples=5", "run.epochs=1", "run.lengths={3: 1}"], ["have no length"]),
        (["scenario=resnet"], ["scenario=resnet", "resnet152_imagenet"]),
        (["measured_step_s=1"], ["needs device=NAME"]),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line(settings, words):
    with pytest.raises(UserError) as error:
        command.main(settings)
    text = str(error.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


def test_counting_leaves_the_module_and_torch_as_they_are():
    import torch
    from torch import nn

    from hpctrain.flops.count import count

    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 2)
    )
    model[0].weight.requires_grad_(False)
    model(torch.ones(2, 3, 8, 8)).sum().backward()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    random, default = torch.get_rng_state(), (torch.get_default_dtype(), torch.is_grad_enabled())
    found = count(model.eval(), [torch.ones(2, 3, 8, 8)], training=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(p.grad, grads[n]) for n, p in model.named_parameters() if p.grad is not None)
    assert torch.equal(torch.get_rng_state(), random)
    assert (torch.get_default_dtype(), torch.is_grad_enabled()) == default
    assert not model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    layers = {layer.name: layer for layer in found.layers}
    # The frozen first layer's bias is trained, its weight is not, and nothing before it needs a gradient.
    assert (layers["0"].weight_grad.macs, layers["0"].input_grad.macs) == (0, 0)
    assert layers["4"].input_grad.macs == layers["4"].forward.macs


@pytest.mark.parametrize("size", ["3x1000000x1000000", "3x224x65537", f"1{'0' * 5000}"])
def test_sizes_that_no_sample_has_are_refused(size):
    with pytest.raises(
        UserError, match=r"^input=.*: sizes must be ≤ 65536: no sample of a data set is larger"
    ):
        command.main(["model=resnet50", f"input={size}"])
