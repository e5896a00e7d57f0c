"""Operation counters on the same 32 cases, beside the truth: who is right, forward and for a whole step.

    python tests/benchmarks/counters_vs_peers.py [--peers FOLDER] [--json FILE] [--ask COUNTER ...]

The truth is written out here (layers) or the published count (architectures, tests/golden/architectures.csv), in
MACs; a step is forward and backward pass. Each counter runs in a process of its own, on the CPU with real
tensors, as its documentation says; where it counts operations, two are one MAC. FlopCounterMode is also asked
on the meta device, and alone counts a step beside hpctrain. The counters of counters.txt are installed into a
folder of their own (build/peers), without their dependencies: nothing of this project needs them.
"no rule" is a refusal that names the operator. A figure is right where it equals the truth; what is off by less than
1 % counts additions of biases, activations or normalisations as MACs.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COUNTERS = (
    "hpctrain",
    "FlopCounterMode",
    "FlopCounterMode meta",
    "fvcore",
    "ptflops",
    "thop",
    "torchinfo",
    "calflops",
    "DeepSpeed",
)
LIMIT_S = 600


# --- the cases: a module, its inputs, and what is true of them ----------------------------------------------


def layer_cases():
    """Name to (module, input shape, forward MACs, MACs of a step)."""
    import torch
    from torch import nn

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(64, 4, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    class Last(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x)[0]

    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.out = nn.Embedding(1000, 64), nn.Linear(64, 1000)

        def forward(self, x):
            return self.out(self.words(x))

    class Double(torch.autograd.Function):
        """A product whose backward pass is written out."""

        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return x @ w.t()

        @staticmethod
        def backward(ctx, gradient):
            x, w = ctx.saved_tensors
            return gradient @ w, gradient.t() @ x

    class Parts(nn.Module):
        """What `function` does with a picture and two parameters."""

        def __init__(self, function, a, b=(1,)):
            super().__init__()
            self.function, self.a, self.b = function, nn.Parameter(torch.rand(a)), nn.Parameter(torch.rand(b))

        def forward(self, x):
            return self.function(x, self.a, self.b)

    def causal(x, a, b):
        q, k, v = (x @ a).view(len(x), -1, 3, 4, 16).permute(2, 0, 3, 1, 4).unbind(0)
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    def complex_product(x, a, b):
        return torch.view_as_real(torch.view_as_complex(x) @ torch.view_as_complex(a))

    def adapted():
        layer, (a, b) = nn.Linear(64, 32), (torch.rand(4, 64), torch.rand(32, 4))
        layer.low, layer.high = nn.Parameter(a), nn.Parameter(b)
        layer.register_forward_hook(
            lambda module, given, out: out + given[0] @ module.low.t() @ module.high.t()
        )
        return layer

    def up(mode):
        return nn.Sequential(nn.Upsample(scale_factor=2, mode=mode), nn.Conv2d(8, 4, 3, padding=1))

    torch.manual_seed(0)
    conv, qkv, scores = 4 * 72 * 14 * 14, 20 * 64 * 192, 4 * 20 * 20 * 16
    pair, pairs = 6 * 5 * 16 * 16, 6 * 5 * 16
    product, low, bent = 10 * 64 * 32, 10 * 4 * 64, 10 * 4 * 32
    butterflies = (
        10 * 64 // 2 * 6
    )  # of 10 transforms of 64 values (Cooley & Tukey 1965): a complex product each
    three, then = 2 * 16 * 4 * 16, 2 * 4 * 16 * 3
    grouped = 8 * 4 * 9 * 16 * 14 * 14
    lstm = 2 * 10 * 4 * (2 * 32 * (16 + 32) + 2 * 32 * (64 + 32))
    lstm_first = 2 * 2 * 2 * 4 * 32 * 32
    first = 2 * 10 * 4 * 2 * 32 * 16  # into the inputs of the first layer
    gru, gru_first = 2 * 10 * 3 * 32 * (16 + 32), 2 * 3 * 32 * 32
    attention = 4 * 20 * 64 * 64 + 2 * 20 * 20 * 64
    return {
        "Conv2d": (nn.Conv2d(3, 16, 5, padding=2), (2, 3, 28, 28), 2 * 16 * 75 * 784, 2 * 2 * 16 * 75 * 784),
        "Conv2d, grouped": (nn.Conv2d(32, 128, 3, groups=8, padding=1), (1, 32, 14, 14), grouped, 2 * grouped),
        "Conv2d, dilated, strided": (
            nn.Conv2d(4, 8, 3, stride=2, dilation=2), (1, 4, 21, 17), 8 * 36 * 9 * 7, 2 * 8 * 36 * 9 * 7
        ),
        "ConvTranspose2d": (
            nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1), (1, 8, 7, 7), 49 * 8 * 4 * 16, 2 * 49 * 8 * 4 * 16
        ),
        "Conv1d, depthwise": (nn.Conv1d(16, 16, 9, groups=16), (2, 16, 50), 2 * 16 * 9 * 42, 2 * 2 * 16 * 9 * 42),
        "Linear over 3 dimensions": (nn.Linear(64, 32), (4, 10, 64), 40 * 64 * 32, 2 * 40 * 64 * 32),
        "LSTM, 2 layers, both ways": (
            Last(nn.LSTM(16, 32, 2, bidirectional=True, batch_first=True)), (2, 10, 16), lstm,
            3 * lstm - lstm_first - first,
        ),
        "GRU": (Last(nn.GRU(16, 32, batch_first=True)), (2, 10, 16), gru, 3 * gru - gru_first - 2 * 10 * 3 * 32 * 16),
        "Attention, 4 heads": (Attention(), (1, 20, 64), attention, 3 * attention - 3 * 20 * 64 * 64),
        "Embedding and output layer": (Words(), (2, 9), 18 * 64_000, 3 * 18 * 64_000),
        # The picture needs no gradient: a layer behind it costs twice its forward pass.
        "Interpolation, nearest, and Conv2d": (up("nearest"), (1, 8, 7, 7), conv, 2 * conv),
        "Interpolation, bilinear, and Conv2d": (up("bilinear"), (1, 8, 7, 7), conv, 2 * conv),
        "Causal attention": (Parts(causal, (64, 192)), (1, 20, 64), qkv + 2 * scores, 2 * qkv + 6 * scores),
        "Einsum of one operand, and a product": (
            Parts(lambda x, a, b: torch.einsum("ij->i", x @ a), (64, 32)), (10, 64), product, 2 * product
        ),
        "Einsum of two, ellipsis": (
            Parts(lambda x, a, b: torch.einsum("...i,io->...o", x, a), (64, 32)), (2, 5, 64), product, 2 * product
        ),
        # One index after the other: (x·a)·b. Backward both parameters, and the first product.
        "Einsum of three operands": (
            Parts(lambda x, a, b: torch.einsum("bhw,hi,wj->bij", x, a, b), (16, 4), (16, 3)), (2, 16, 16),
            three + then, 2 * three + 3 * then,
        ),
        "Bilinear": (
            Parts(lambda x, a, b: nn.functional.bilinear(x, x, a), (5, 16, 16)), (6, 16), pair + pairs,
            2 * pair + pairs,
        ),
        "Hook with low-rank weights": (adapted(), (10, 64), product + low + bent, 2 * product + 2 * low + 3 * bent),
        "vmap of a product": (
            Parts(lambda x, a, b: torch.vmap(lambda one: a @ one)(x), (32, 64)), (10, 64), product, 2 * product
        ),
        # Four real products each.
        "Complex product": (
            Parts(complex_product, (64, 32, 2)), (10, 64, 2), 4 * product, 8 * product
        ),
        "Fourier transform, and a product": (
            Parts(lambda x, a, b: torch.fft.fft(x).real @ a, (64, 32)), (10, 64), product + 4 * butterflies,
            2 * product + 4 * butterflies,
        ),
        # Its backward pass makes both gradients.
        "Autograd Function of one's own": (
            Parts(lambda x, a, b: Double.apply(x, a), (32, 64)), (10, 64), product, 3 * product
        ),
    }  # fmt: skip


def truth_of_architectures():
    """Name to (forward MACs, MACs of a step) of the batch that is counted."""
    rows = csv.DictReader((ROOT / "tests/golden/architectures.csv").read_text().splitlines())
    published = {row["name"]: int(row["forward_macs"]) for row in rows}

    def of(start):
        return next(macs for name, macs in published.items() if name.startswith(start))

    def image(start, first):
        """All gradients but that of the picture."""
        return of(start), 3 * of(start) - first

    h, words = 650, 35 * of("LSTM LM")
    steps = 50 * of("DS2 ~68M")
    pairs = 25 * (of("GNMT") + 2 * 25 * 1024)
    # Shazeer et al. 2017: attention's projections, score and sum; 16 groups and 2,048 experts to choose from.
    mixed = 512 * (of("MoE NMT") + 2 * 512 * 512 + 2 * 32 * 512 + 2 * 512 * (16 + 2048))
    # What starts at zero needs no gradient: each first step's state, the first question to the attention.
    return {
        "LeNet-5": image("LeNet-5 modern (", 6 * 25 * 28 * 28),
        "AlexNet": image("AlexNet (t", 64 * 363 * 55 * 55),
        "VGG16": image("VGG16", 64 * 27 * 224 * 224),
        "GoogLeNet": image("GoogLeNet paper", 64 * 147 * 112 * 112),
        "ResNet-50": image("ResNet-50 v1.5", 64 * 147 * 112 * 112),
        "ResNet-152": image("ResNet-152 v1.5", 64 * 147 * 112 * 112),
        "LSTM language model": (words, 3 * words - 2 * 4 * h * h),
        "Deep Speech 2": (steps, 3 * steps - 14 * 1760**2 - 32 * 41 * 11 * 81 * 50),
        "GNMT": (pairs, 3 * pairs - 17 * 4 * 1024**2 - 1024**2),
        "GNMT, 2,048 experts": (mixed, 3 * mixed - 16 * (5 * 4 * 2048 * 512 + 512 * 512)),
    }


NAMES = {
    "LeNet-5": "lenet", "AlexNet": "alexnet", "VGG16": "vgg16", "GoogLeNet": "googlenet", "ResNet-50": "resnet50",
    "ResNet-152": "resnet152", "LSTM language model": "lstm", "Deep Speech 2": "deep_speech2", "GNMT": "gnmt",
    "GNMT, 2,048 experts": "gnmt_moe",
}  # fmt: skip


def cases(device):
    """Name, a function that makes the module (its weights are whatever the memory holds), its inputs."""
    import torch
    from torch import nn

    from hpctrain import models
    from hpctrain.models.settings import SETTINGS

    for name, (module, shape, *_) in layer_cases().items():
        x = torch.zeros(shape, dtype=torch.int64 if "Embedding" in name else torch.float32, device=device)
        # Some counters look at a module's children only.
        yield name, lambda module=module: nn.Sequential(module).to(device), (x,)
    for name, model in NAMES.items():
        settings, batch = SETTINGS[model](), 16 if model == "gnmt_moe" else 1
        inputs = models.example_inputs(model, settings, batch, device=device)
        yield (
            name,
            lambda m=model, s=settings: plain(models.build(m, s, device="meta")).to_empty(device=device),
            inputs,
        )


def plain(model):
    """With torch's own LSTM in place of hpctrain's subclass of it: some counters know layers by their exact type."""
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.LSTM):
            for name in ("cell", "start"):  # its own step, which GNMT's decoder asks for
                setattr(module, name, getattr(module, name, None))
            module.__class__ = nn.LSTM
    return model


# --- the counters: module and inputs to (forward MACs, MACs of a step) ---------------------------------------


def hpctrain(model, inputs):
    from hpctrain.flops.count import count

    found = count(model, inputs, training=True)
    return found.forward.macs, found.forward.macs + found.backward.macs


def flop_counter_mode(model, inputs):
    from torch.utils.flop_counter import FlopCounterMode

    model.train()
    with FlopCounterMode(display=False) as forward:
        out = model(*inputs)
    with FlopCounterMode(display=False) as both:
        out = model(*inputs)
        out = out[0] if isinstance(out, tuple) else out
        out.sum().backward()
    return forward.get_total_flops() / 2, both.get_total_flops() / 2


def fvcore(model, inputs):
    from fvcore.nn import FlopCountAnalysis

    found = (
        FlopCountAnalysis(model.eval(), inputs)
        .unsupported_ops_warnings(False)
        .uncalled_modules_warnings(False)
    )
    return found.total(), None


def ptflops(model, inputs):
    from ptflops import get_model_complexity_info

    macs, _ = get_model_complexity_info(
        model.eval(), (1,), input_constructor=lambda _: _named(model, inputs), as_strings=False,
        print_per_layer_stat=False, verbose=False, backend="pytorch",
    )  # fmt: skip
    return macs, None


def _named(model, inputs):
    import inspect

    return dict(zip(inspect.signature(model.forward).parameters, inputs, strict=False))


def thop(model, inputs):
    from thop import profile

    return profile(model.eval(), inputs=inputs, verbose=False)[0], None


def torchinfo(model, inputs):
    from torchinfo import summary

    return summary(model.eval(), input_data=list(inputs), verbose=0).total_mult_adds, None


def calflops(model, inputs):
    from calflops import calculate_flops

    found = calculate_flops(
        model.eval(), args=list(inputs), output_as_string=False, print_results=False, print_detailed=False
    )
    return found[1], None


def deepspeed(model, inputs):
    from deepspeed.profiling.flops_profiler import get_model_profile

    found = get_model_profile(
        model.eval(), args=list(inputs), print_profile=False, detailed=False, as_string=False, warm_up=0
    )
    return found[1], None


FUNCTIONS = {
    "hpctrain": hpctrain, "FlopCounterMode": flop_counter_mode, "FlopCounterMode meta": flop_counter_mode,
    "fvcore": fvcore, "ptflops": ptflops, "thop": thop, "torchinfo": torchinfo, "calflops": calflops,
    "DeepSpeed": deepspeed,
}  # fmt: skip


def known_operators(counter):
    """How many operators a counter has a rule for; None if it has no list. Both of hpctrain's counts have one."""
    if counter == "hpctrain":
        from hpctrain.flops import operators, walk

        return {
            "calls of torch": len(walk.RULES), "without arithmetic": len(walk.FREE),
            "second count": len(operators.OPERATORS), "without arithmetic, second count": len(operators.FREE),
        }  # fmt: skip
    if counter == "FlopCounterMode":
        from torch.utils.flop_counter import flop_registry

        return {"operators": len(flop_registry)}
    if counter == "fvcore":
        from fvcore.nn.flop_count import _DEFAULT_SUPPORTED_OPS

        return {"operators": len(_DEFAULT_SUPPORTED_OPS)}
    return None


def work(counter):
    """In the counter's own process: a JSON line a case."""
    warnings.filterwarnings("ignore")
    device = "meta" if counter in ("hpctrain", "FlopCounterMode meta") else "cpu"
    os.write(3, (json.dumps({"case": "operators", "known": known_operators(counter)}) + "\n").encode())
    for name, make, inputs in cases(device):
        result = {"case": name}
        start = time.perf_counter()
        try:
            if name == "GNMT, 2,048 experts" and device == "cpu":
                raise MemoryError("35 GB of parameters")
            result["forward"], result["step"] = FUNCTIONS[counter](make(), inputs)
        except BaseException as error:  # counters fail in many ways: that is a result
            result["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:100]
        result["s"] = time.perf_counter() - start
        result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        os.write(3, (json.dumps(result) + "\n").encode())


def ask(counter, peers):
    reader, writer = os.pipe()
    command = [sys.executable, __file__, "--work", counter]
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}:{peers}",
        "OMP_NUM_THREADS": "2",
        "DS_ACCELERATOR": "cpu",
    }
    # The pipe is the child's descriptor 3: counters print what they like.
    process = subprocess.Popen(
        ["/bin/sh", "-c", f'exec "$@" 3>&{writer}', "sh", *command],
        pass_fds=[writer], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(writer)
    with os.fdopen(reader) as lines:
        found = [json.loads(line) for line in lines]
    error = (process.communicate()[1] or "").strip().splitlines()
    if process.returncode:
        print(f"{counter}: ended with {process.returncode}: {error[-1] if error else ''}", file=sys.stderr)
    return {result["case"]: result for result in found}


def verdict(value, truth):
    if value is None:
        return "–"
    if value == truth:
        return "right"
    ratio = value / truth
    return f"{ratio:.4f}×" if abs(ratio - 1) < 0.01 else "0" if value == 0 else f"**{ratio:.3g}×**"


def table(truths, found):
    rows = [["case", "true MACs", *COUNTERS]]
    for pass_name, index in (("forward", 0), ("step", 1)):
        shown = COUNTERS if index == 0 else ("hpctrain", "FlopCounterMode", "FlopCounterMode meta")
        for name, truth in truths.items():
            row = [f"{name}, {pass_name}", f"{truth[index]:,}"]
            for counter in COUNTERS:
                result = found[counter].get(name, {"error": "ended"})
                cell = verdict(result.get(pass_name), truth[index])
                if "error" in result:
                    cell = "no rule" if "has no rule" in result["error"] else "fails"
                row.append(cell if counter in shown else "–")
            rows.append(row)
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peers", type=Path, default=ROOT / "build/peers", help="where the other counters are"
    )
    parser.add_argument(
        "--json", type=Path, help="keep the figures here; those of counters not asked are taken from it"
    )
    parser.add_argument(
        "--ask", nargs="+", choices=COUNTERS, default=COUNTERS, help="which counters (default: all)"
    )
    parser.add_argument("--work", choices=COUNTERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work)
        return 0
    if not args.peers.is_dir():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
        done = subprocess.run(
            [*install, "--target", str(args.peers), "-r", str(HERE / "counters.txt")],
            env=os.environ | {"DS_BUILD_OPS": "0"},
        )
        if done.returncode:
            return 1
    truths = {name: (forward, step) for name, (_, _, forward, step) in layer_cases().items()}
    truths |= truth_of_architectures()
    known = json.loads(args.json.read_text())["found"] if args.json and args.json.exists() else {}
    found = {c: ask(c, args.peers) if c in args.ask else known.get(c, {}) for c in COUNTERS}
    rows = table(truths, found)
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows[1:]:
        print("| " + " | ".join(row) + " |")
    for counter in COUNTERS:
        column = [
            row[2 + COUNTERS.index(counter)] for row in rows[1:] if row[2 + COUNTERS.index(counter)] != "–"
        ]
        print(f"{counter}: {column.count('right')} of {len(column)} right", file=sys.stderr)
        known = found[counter].get("operators", {}).get("known")
        if known:
            print(f"{counter}: rules for {known}", file=sys.stderr)
    for name in ("ResNet-50", "GNMT, 2,048 experts"):
        own = found["hpctrain"][name]
        print(f"hpctrain counts {name} in {own['s']:.2f} s, {own['peak_mb']:.0f} MB at most", file=sys.stderr)
    if args.json:
        args.json.write_text(json.dumps({"truth": truths, "found": found}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
