"""Networks as ONNX files: onnxruntime computes what torch does, for batches and lengths of other sizes."""

import onnxruntime
import pytest
import torch

from hpctrain import models
from hpctrain.checkpoints import export
from hpctrain.models.settings import NETWORKS

# Settings that make a network small enough for a test; the others are as they are.
SMALL = {
    "rnn": {"vocabulary_size": 50, "hidden": 12},
    "birnn": {"vocabulary_size": 50, "hidden": 12},
    "gru": {"vocabulary_size": 50, "hidden": 12, "embedding": 8},
    "lstm": {"vocabulary_size": 50, "hidden": 12, "embedding": 8},
    "deep_speech2": {"hidden": 12, "layers": 3},
    "gnmt": {"vocabulary_size": 60, "hidden": 12, "encoder_layers": 3, "decoder_layers": 3},
    "gnmt_moe": {
        "vocabulary_size": 60, "width": 8, "hidden": 12, "attention": 8, "groups": 2, "experts_per_group": 4,
        "expert_hidden": 16,
    },
}  # fmt: skip
SOON = ("lenet", "rnn", "deep_speech2")  # the others take minutes together
VARIANTS = {
    "rnn of relu, two layers, embedded": ("rnn", {"nonlinearity": "relu", "input": "embedding", "layers": 2}),
    "birnn of gru, two layers": ("birnn", {"cell": "gru", "layers": 2}),
    "birnn of lstm, embedded": ("birnn", {"cell": "lstm", "input": "embedding", "layers": 2}),
    "lstm of one-hot words": ("lstm", {"input": "one_hot", "layers": 2}),
    "deep_speech2 forwards, with lookahead": ("deep_speech2", {"bidirectional": False, "lookahead": 3, "cell": "gru"}),
    "deep_speech2 without batch norm": ("deep_speech2", {"batch_norm": False, "bias": True, "full_layers": 1}),
    "gnmt with biases": ("gnmt", {"bias": True}),
    "gnmt_moe without projection": ("gnmt_moe", {"width": 12}),
}  # fmt: skip


def randomised(tensor, vocabulary):
    return (
        torch.randint(vocabulary, tensor.shape) if tensor.dtype == torch.int64 else torch.randn(tensor.shape)
    )


def samples(name, settings, batch, length):
    """What the network takes, of random values; of a pair, the target is longer than the source, and lengths differ."""
    inputs = models.example_inputs(name, settings, batch, device="cpu", length=length)
    vocabulary = getattr(settings, "vocabulary_size", None)
    if NETWORKS[name].inputs != "pair":
        return tuple(randomised(tensor, vocabulary) for tensor in inputs)
    source = randomised(inputs[0], vocabulary)
    lengths = torch.arange(batch) % length + 1
    target = torch.randint(vocabulary, (batch, length + 2))
    return source, lengths, target


def flat(result):
    """The tensors of a network's result, in order."""
    if isinstance(result, torch.Tensor):
        return [result]
    return [] if result is None else [tensor for part in result for tensor in flat(part)]


def agrees(name, changed, path):
    torch.manual_seed(0)
    torch.compiler.reset()  # the exporter traces at most eight variants of a function in one process
    settings = NETWORKS[name].settings(**SMALL.get(name, {}) | changed)
    model = models.build(name, settings).eval()
    takes = NETWORKS[name].inputs
    free = "batches" if takes == "image" else "batches and lengths"
    with torch.no_grad():
        example = models.example_inputs(name, settings, 2, device="cpu")
        assert export.to_onnx(model, example, takes, path) == f"ONNX, for {free} of any size"
        session = onnxruntime.InferenceSession(str(path))
        names = [given.name for given in session.get_inputs()]
        for batch, length in ((1, 30), (3, 50), (5, 23)):
            inputs = samples(name, settings, batch, length)
            expected = flat(model(*inputs))
            found = session.run(None, {k: v.numpy() for k, v in zip(names, inputs, strict=True)})
            assert len(found) >= len(expected)
            for one, other in zip(expected, found, strict=False):
                largest = one.abs().max().item()
                torch.testing.assert_close(torch.from_numpy(other), one, rtol=0, atol=1e-4 * largest)


@pytest.mark.filterwarnings("ignore")  # of torch's exporter, about its own code
@pytest.mark.parametrize(
    "name", [name if name in SOON else pytest.param(name, marks=pytest.mark.long) for name in NETWORKS]
)
def test_onnx_is_the_network(tmp_path, name):
    agrees(name, {}, tmp_path / "net.onnx")


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variant", VARIANTS)
def test_onnx_is_the_network_in_its_variants(tmp_path, variant):
    agrees(*VARIANTS[variant], tmp_path / "net.onnx")
