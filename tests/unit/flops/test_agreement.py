"""Random layers: the closed form and the trace of real operators agree to the last unit, in every pass.

`count` itself raises where they differ. Beside it, MACs are checked against formulas written out here.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from hpctrain.errors import RunFailed, UserError
from hpctrain.flops.count import count
from hpctrain.flops.rules import Cost
from tests.integration import odd_networks

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
small = st.integers(1, 3)
few = settings(max_examples=25, deadline=None, derandomize=True)


class Call(nn.Module):
    """A function as a module, so that functional code is counted too."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def meta(*shape, grad=True):
    return torch.empty(*shape, device="meta", requires_grad=grad)


def frozen(module, which):
    for parameter, freeze in zip(module.parameters(), which, strict=False):
        parameter.requires_grad_(not freeze)
    return module


@few
@given(data=st.data(), dims=st.integers(1, 3), transposed=st.booleans())
def test_convolutions(data, dims, transposed):
    groups = data.draw(small)
    inputs, outputs = groups * data.draw(small), groups * data.draw(small)
    each = st.tuples(*[small] * dims)
    kernel, stride, dilation = data.draw(each), data.draw(each), data.draw(each)
    padding = data.draw(st.tuples(*[st.integers(0, 2)] * dims))
    size = tuple(d * (k - 1) + data.draw(small) + 2 for d, k in zip(dilation, kernel, strict=True))
    if transposed:
        padding = tuple(min(p, d * (k - 1)) for p, d, k in zip(padding, dilation, kernel, strict=True))
    kind = (TRANSPOSED if transposed else CONVOLUTIONS)[dims]
    bias = data.draw(st.booleans())
    layer = kind(
        inputs, outputs, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups, bias=bias
    )
    frozen(layer, data.draw(st.lists(st.booleans(), min_size=2, max_size=2)))
    batch, grad = data.draw(small), data.draw(st.booleans())
    found = count(layer, [meta(batch, inputs, *size, grad=grad)])
    y = layer.to("meta")(meta(batch, inputs, *size))
    positions = math.prod(size if transposed else y.shape[2:])
    macs = batch * inputs // groups * outputs * math.prod(kernel) * positions
    assert found.forward.macs == macs
    assert found.backward.macs == macs * (grad + layer.weight.requires_grad)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@few
@given(data=st.data())
def test_asymmetric_padding(data):
    left, right, kernel = data.draw(small), data.draw(small), data.draw(st.integers(1, 4))
    layer = nn.Sequential(nn.ConstantPad1d((left, right), 0.0), nn.Conv1d(2, 3, kernel))
    found = count(layer, [meta(2, 2, 6)])
    assert found.forward.macs == 2 * 2 * 3 * kernel * (6 + left + right - kernel + 1)
    same = count(nn.Conv2d(2, 4, (kernel, 2), padding="same"), [meta(1, 2, 5, 6)])
    assert same.forward.macs == 2 * 4 * kernel * 2 * 5 * 6


@few
@given(shape=st.lists(st.integers(1, 4), min_size=0, max_size=4), bias=st.booleans(), grad=st.booleans())
def test_linear_over_any_dimensions(shape, bias, grad):
    found = count(nn.Linear(5, 3, bias=bias), [meta(*shape, 5, grad=grad)])
    rows = math.prod(shape)
    assert (found.forward.macs, found.forward.bias) == (15 * rows, 3 * rows * bias)
    assert found.backward.macs == 15 * rows * (1 + grad)


@few
@given(data=st.data(), kind=st.sampled_from([nn.RNN, nn.GRU, nn.LSTM]))
def test_recurrent(data, kind):
    steps, batch, layers, both = (
        data.draw(small),
        data.draw(small),
        data.draw(small),
        data.draw(st.booleans()),
    )
    inputs, hidden, bias = data.draw(small), data.draw(st.integers(2, 4)), data.draw(st.booleans())
    extra = {}
    if kind is nn.LSTM:
        extra["proj_size"] = data.draw(st.integers(0, hidden - 1))
    if kind is nn.RNN:
        extra["nonlinearity"] = data.draw(st.sampled_from(["tanh", "relu"]))
    dropout = data.draw(st.sampled_from([0.0, 0.5])) if layers > 1 else 0.0
    layer = kind(inputs, hidden, layers, bias=bias, bidirectional=both, dropout=dropout, **extra)
    size = 4 * layers * (1 + both)
    frozen(layer, data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    x = meta(steps, batch, inputs, grad=data.draw(st.booleans()))
    found = count(layer, [x])
    gates = {nn.RNN: 1, nn.GRU: 3, nn.LSTM: 4}[kind]
    state, macs, width = extra.get("proj_size") or hidden, 0, inputs
    for _ in range(layers):
        macs += (1 + both) * (gates * hidden * (width + state) + hidden * extra.get("proj_size", 0))
        width = state * (1 + both)
    assert found.forward.macs == steps * batch * macs


@few
@given(
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=4).map(lambda v: sorted(v, reverse=True)),
    kind=st.sampled_from([nn.RNN, nn.GRU, nn.LSTM]),
    both=st.booleans(),
)
def test_packed_lengths_cost_their_own_steps(lengths, kind, both):
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = kind(3, 4, 2, bidirectional=both)

        def forward(self, x):
            return self.rnn(pack_padded_sequence(x, torch.tensor(lengths)))[0].data

    found = count(Packed(), [meta(max(lengths), len(lengths), 3)])
    one = count(kind(3, 4, 2, bidirectional=both), [meta(1, 1, 3)])
    assert found.forward.macs == sum(lengths) * one.forward.macs


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_cells(kind):
    found = count(kind(3, 4), [meta(2, 3)])
    assert found.forward.macs == 2 * {nn.RNNCell: 1, nn.GRUCell: 3, nn.LSTMCell: 4}[kind] * 4 * (3 + 4)


@few
@given(
    data=st.data(), batch=small, heads=small, queries=small, keys=small, width=small,
    need_weights=st.booleans(), bias=st.booleans(), self_attention=st.booleans(), masked=st.booleans(),
)  # fmt: skip
def test_attention(data, batch, heads, queries, keys, width, need_weights, bias, self_attention, masked):
    size = heads * width
    keys = queries if self_attention else keys
    layer = nn.MultiheadAttention(size, heads, bias=bias, dropout=data.draw(st.sampled_from([0.0, 0.1])))
    mask = meta(queries, keys, grad=False) if masked else None

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = layer

        def forward(self, q, kv):
            kv = q if self_attention else kv
            return self.attention(q, kv, kv, need_weights=need_weights, attn_mask=mask)[0]

    found = count(Module(), [meta(queries, batch, size), meta(keys, batch, size)])
    projections = batch * size * size * (2 * queries + 2 * keys)
    assert found.forward.macs == projections + 2 * batch * heads * queries * keys * width
    q, k = meta(batch, heads, queries, width), meta(batch, heads, keys, width)
    direct = count(Call(F.scaled_dot_product_attention), [q, k, k])
    assert direct.forward.macs == 2 * batch * heads * queries * keys * width
    assert direct.backward.macs == 2 * direct.forward.macs


@few
@given(
    data=st.data(), dims=st.integers(1, 3), affine=st.booleans(), tracked=st.booleans(),
    training=st.booleans(), grad=st.booleans(),
)  # fmt: skip
def test_normalisation(data, dims, affine, tracked, training, grad):
    shape = [data.draw(small) + 1, 4, *[data.draw(small) + 1] * dims]
    x = meta(*shape, grad=grad or not affine)
    count(NORMS[dims](4, affine=affine, track_running_stats=tracked).train(training), [x])
    count(nn.GroupNorm(2, 4, affine=affine), [x])
    count(nn.LayerNorm(shape[-1], elementwise_affine=affine), [x])
    count(nn.LocalResponseNorm(3), [x])
    count((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[dims - 1](4), [x])


@few
@given(size=st.integers(4, 9), kernel=small, stride=small, padding=st.integers(0, 1), outputs=small)
def test_pooling(size, kernel, stride, padding, outputs):
    x, padding = meta(2, 3, size, size + 1), min(padding, kernel // 2)
    found = count(nn.MaxPool2d(kernel, stride, padding), [x])
    assert found.forward.other == nn.MaxPool2d(kernel, stride, padding)(x).numel() * kernel**2
    count(nn.AvgPool2d(kernel, stride, padding), [x])
    count(nn.AdaptiveAvgPool2d(outputs), [x])
    count(nn.AdaptiveMaxPool2d(outputs), [x])


@pytest.mark.parametrize(
    "layer",
    [
        nn.ReLU(), nn.Sigmoid(), nn.Tanh(), nn.GELU(), nn.SiLU(), nn.ELU(), nn.LeakyReLU(), nn.ReLU6(),
        nn.Hardtanh(), nn.Softplus(), nn.Hardswish(), nn.Hardsigmoid(), nn.Softmax(-1), nn.LogSoftmax(-1),
        nn.Dropout(0.3), nn.Flatten(), nn.Identity(), nn.ReLU(inplace=True), nn.PReLU(),
    ],
    ids=lambda layer: type(layer).__name__,
)  # fmt: skip
def test_activations(layer):
    count(nn.Sequential(nn.Linear(4, 6), layer), [meta(3, 2, 4)])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + x * 2 - 1,
        lambda x: 1 - x,
        lambda x: 2 / x,
        lambda x: x / x.sum(-1, keepdim=True),
        lambda x: (x - x.mean()).square().mean(),
        lambda x: x.exp().log().sqrt().abs(),
        lambda x: -x.clamp(0, 20),
        lambda x: x.var(),
        lambda x: torch.cat([x, x[:1]]).T.reshape(-1)[1:],
        lambda x: torch.where(x > 0, x, x * 2),
        lambda x: x @ x.T,
        lambda x: torch.einsum("ij,kj->ik", x, x),
        lambda x: torch.einsum("ij,kj->ikj", x, x),
        lambda x: torch.einsum("ij,kl->ikl", x, x),  # j is summed before
        lambda x: torch.einsum("ij,kl->", x, x),
        lambda x: torch.einsum("ij->j", x),
        lambda x: torch.einsum("ii->", x[:, :3]),
        lambda x: torch.einsum("...j,kj", x, x),
        lambda x: torch.einsum("i,j", x[0], x[1]),
        lambda x: torch.einsum("ij,ij->", x, x),
        lambda x: torch.einsum("bij,bjk->bik", x[None], x.T[None].repeat(4, 1, 1)),
        lambda x: torch.einsum(x, [0, 1], x, [2, 1], [0, 2]),
        lambda x: torch.nn.functional.linear(input=x, weight=x),
        lambda x: torch.add(x, x, alpha=2) - torch.sub(x, x, alpha=3),
        lambda x: 2**x + x**2 + torch.pow(x, 0.5),
        lambda x: x.index_add(0, torch.zeros(3, dtype=torch.int64, device="meta"), x),
        lambda x: x.scatter_add(1, torch.zeros(3, 2, dtype=torch.int64, device="meta"), x[:, :2]),
        lambda x: x.tile(2) + x.repeat(2, 3, 1).sum(),
        lambda x: torch.addmm(x[:, :3], x, x.T),
        lambda x: torch.bmm(x[None], x.T[None]),
        lambda x: x @ x[0],
        lambda x: F.cross_entropy(x, torch.empty(3, dtype=torch.int64, device="meta")),
        lambda x: F.cross_entropy(
            x, torch.empty(3, dtype=torch.int64, device="meta"), reduction="sum", label_smoothing=0.1
        ),
        lambda x: F.mse_loss(x, x.detach()),
        lambda x: F.nll_loss(F.log_softmax(x, 1), torch.empty(3, dtype=torch.int64, device="meta")),
    ],
)
def test_functions(function):
    assert count(Call(function), [meta(3, 5)]).forward != Cost()


@pytest.mark.parametrize("zero_infinity", [False, True])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_ctc(reduction, zero_infinity):
    def loss(x):
        targets = torch.empty(2, 3, dtype=torch.int64, device="meta")
        return F.ctc_loss(x, targets, (7, 5), (3, 2), reduction=reduction, zero_infinity=zero_infinity)

    found = count(Call(loss), [meta(7, 2, 4)])
    lattice = 13 * (7 * 7 + 5 * 5)
    assert found.forward.other == lattice + {"none": 0, "sum": 2, "mean": 7}[reduction] + 2 * zero_infinity


def test_embedding_and_tied_weights():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(10, 4)
            self.out = nn.Linear(4, 10, bias=False)
            self.out.weight = self.words.weight

        def forward(self, tokens):
            return self.out(self.words(tokens))

    found = count(Tied(), [torch.zeros(3, 2, dtype=torch.int64)])
    assert found.params == 40
    assert found.forward.macs == 6 * 40
    assert found.backward.macs == 2 * 6 * 40


def test_recomputation_is_apart():
    from torch.utils.checkpoint import checkpoint

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=False)

    plain, again = count(Block().inner, [meta(3, 4)]), count(Block(), [meta(3, 4)])
    assert (again.forward, again.backward) == (plain.forward, plain.backward)
    assert (plain.recomputed_macs, again.recomputed_macs) == (0, 3 * 16)


def test_unknown_operator_is_an_error_that_names_it():
    layer = nn.Sequential(nn.Linear(3, 3), Call(torch.special.bessel_j0))
    with pytest.raises(UserError, match=r"bessel_j0.*no rule \(in 1\)"):
        count(layer, [meta(2, 3)])
    found = count(layer, [meta(2, 3)], allow_unknown=True)
    assert found.forward.macs == 18
    assert ("1", "special_bessel_j0") in found.unknown


# What cannot be counted says so, and why; all others are counted, and both counts agree.
NOT_COUNTED = {
    "Fourier": "fft_fft2 of complex numbers: has no rule", "ComplexInside": "mul of complex numbers: has no rule",
    "ThreeOperands": "operator=einsum of 3 operands: has no rule", "Vmapped": "matmul inside of vmap: has no rule",
    "Hooked": "hook Hooked.__init__.<locals>.<lambda>: has no rule (in first)",
    "Adapted": "hook Adapted.__init__.<locals>.<lambda>: has no rule (in first)",
    "GradientInside": "operator=grad: has no rule", "SparseEmbedding": "_sparse_coo_tensor",
    "ReversedGradient": "operator=autograd Function Reverse: has no rule", "Rows": "not at the same device",
    "NumpyInside": "no data! (odd_networks.py", "Branch": "(odd_networks.py, line",
    "Mixture": "(odd_networks.py, line", "Pieces": "(odd_networks.py, line",
    "OwnCheckpoint": "operator=autograd Function BackwardInside: has no rule",
    **dict.fromkeys(
        ("Reentrant", "ReentrantWhole", "ReentrantNested", "Sequential"),
        "operator=autograd Function CheckpointFunction: has no rule",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("name", odd_networks.EQUAL)
def test_odd_networks_are_counted_right_or_not_at_all(name):
    model, images = odd_networks.EQUAL[name](), torch.zeros(12, 1, 16, 16)
    if name.startswith("Lazy"):
        model(images)
    before = {key: value.clone() for key, value in model.state_dict().items() if torch.is_tensor(value)}
    if name in NOT_COUNTED:
        with pytest.raises((UserError, RunFailed)) as refused:
            count(model, [images], training=True)
        assert NOT_COUNTED[name] in str(refused.value)
    else:
        assert count(model, [images], training=True).forward.macs > 0
    after = {key: value for key, value in model.state_dict().items() if torch.is_tensor(value)}
    assert all(torch.equal(before[key], value) for key, value in after.items()), "the count changes nothing"


def test_a_difference_is_an_error_that_names_the_layer(monkeypatch):
    from hpctrain.flops import walk

    monkeypatch.setitem(walk.RULES, "relu", walk.RULES["tanh"])
    with pytest.raises(RunFailed, match=r"COUNT_DIFFERS: layer 1, input_grad.*12 other.*trace 0 and 4"):
        count(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), [meta(2, 3)])


@pytest.mark.parametrize("name", ["lenet", "lstm"])
def test_the_device_changes_nothing(name):
    from hpctrain.models import build, example_inputs
    from hpctrain.models.settings import SETTINGS

    small = {"lstm": {"vocabulary_size": 20, "hidden": 8, "embedding": 8}}.get(name, {})
    settings = SETTINGS[name](**small)
    on = {
        device: count(build(name, settings, device=device), example_inputs(name, settings, 3, device=device))
        for device in ("cpu", "meta")
    }
    assert on["cpu"] == on["meta"]


RECURRENT = {"vocabulary_size": 20, "hidden": 8, "embedding": 8, "example_length": 4}
DROPOUT = {"dropout_input": 0.1, "dropout_between": 0.1, "dropout_output": 0.1, "weight_drop": 0.2}
SPEECH = {"conv_channels": (4,), "conv_kernels": ((11, 5),), "conv_strides": ((2, 2),), "hidden": 8, "layers": 2,
          "example_length": 20}  # fmt: skip
PAIRS = {"hidden": 16, "vocabulary_size": 50, "encoder_layers": 3, "decoder_layers": 2, "example_length": 4}
MIXTURE = {"width": 16, "hidden": 32, "vocabulary_size": 50, "groups": 2, "experts_per_group": 4, "expert_hidden": 8,
           "attention": 8, "example_length": 4}  # fmt: skip
VARIANTS = [
    ("rnn", RECURRENT | {"nonlinearity": "relu"}), ("rnn", RECURRENT | {"input": "one_hot", "weight_drop": 0.2}),
    ("birnn", RECURRENT | DROPOUT | {"cell": "lstm"}), ("birnn", RECURRENT | {"cell": "gru", "input": "one_hot"}),
    ("gru", RECURRENT | DROPOUT | {"layers": 3}), ("gru", RECURRENT | {"input": "one_hot", "layers": 1}),
    ("lstm", RECURRENT | DROPOUT), ("lstm", RECURRENT | {"tied": True}),
    ("deep_speech2", SPEECH | {"batch_norm": False, "bias": True}),
    ("deep_speech2", SPEECH | {"norm_affine": True, "bias": True, "cell": "gru"}),
    ("deep_speech2", SPEECH | {"bidirectional": False, "lookahead": 3, "full_layers": 2}),
    ("gnmt", PAIRS | {"bias": True, "dropout": 0.0}),
    ("gnmt_moe", MIXTURE | {"gate_noise": True, "active": 1, "capacity_factor": 2.0, "bias": True}),
    ("gnmt_moe", MIXTURE | {"width": 32, "gate_noise": True}),
    ("googlenet", {"auxiliary": True, "width": 0.25, "input_shape": (3, 64, 64)}),
    ("googlenet", {"variant": "torchvision", "auxiliary": True, "width": 0.25, "input_shape": (3, 64, 64)}),
    ("alexnet", {"variant": "ungrouped", "channels": (8, 8, 8, 8, 8), "hidden": 8}),
    ("vgg11", {"batch_norm": True, "width": 4, "hidden": 8}),
    ("resnet18", {"stem": "cifar", "width": 4, "input_shape": (3, 32, 32)}),
    ("resnet50", {"version": "v1", "width": 4, "zero_init_residual": True, "input_shape": (3, 32, 32)}),
    ("lenet", {"variant": "1998"}), ("mlp", {"hidden": (), "activation": "relu"}), ("mlp", {"activation": "sigmoid"}),
]  # fmt: skip


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=lambda v: v if isinstance(v, str) else "")
def test_every_variant_of_every_network(name, settings, training):
    from hpctrain.flops.known import fresh
    from hpctrain.models.settings import SETTINGS

    assert fresh(name, SETTINGS[name](**settings), 2, training=training).forward.macs > 0


class Parameterised(nn.Module):
    """A function of a picture and a parameter."""

    def __init__(self, function, *shape):
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.ones(shape))

    def forward(self, x):
        return self.function(x, self.weight)


@pytest.mark.parametrize("sample_needs_grad", [True, False])
@pytest.mark.parametrize("weight_needs_grad", [True, False])
@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x, w: x / w, (4,)), (lambda x, w: w / x, (4,)), (lambda x, w: x / w, ()),
        (lambda x, w: x * w.exp(), ()), (torch.maximum, (4,)), (lambda x, w: torch.where(x > 0, x, w), (4,)),
        (F.cosine_similarity, (3, 4)), (F.pairwise_distance, (3, 4)), (lambda x, w: x @ F.normalize(w, dim=0), (4, 5)),
        (lambda x, w: x[:, :, None] * w, (5,)), (lambda x, w: ((x[:, None] - w[None]) ** 2).sum(-1), (5, 4)),
        (lambda x, w: F.scaled_dot_product_attention(x[None], w[None], w[None]), (5, 4)), (F.prelu, (4,)),
        (lambda x, w: F.layer_norm(x, (4,), 1 + w, w), (4,)), (lambda x, w: F.linear(x, w * x.mean()), (5, 4)),
        (lambda x, w: F.conv2d(x[None, None], (w * x.sum())[None, None]), (2, 2)), (lambda x, w: x + w, (1, 4)),
        (lambda x, w: torch.einsum("bd,do->bdo", x, w), (4, 2)), (lambda x, w: x / (x * w).sum(1, keepdim=True), (4,)),
    ],
)  # fmt: skip
def test_what_weights_and_samples_have_in_common(function, shape, weight_needs_grad, sample_needs_grad):
    """Their gradients are told apart in both counts."""
    model = Parameterised(function, *shape)
    model.weight.requires_grad_(weight_needs_grad)
    found = count(model, [meta(3, 4, grad=sample_needs_grad)])
    needed = sum(
        layer.weight_grad.macs + layer.weight_grad.arithmetic + layer.weight_grad.written
        for layer in found.layers
    )
    assert weight_needs_grad or needed == 0


@pytest.mark.parametrize("queries", [True, False])
def test_learned_queries_and_keys(queries):
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.learned, self.attention = nn.Parameter(torch.ones(2, 1, 8)), nn.MultiheadAttention(8, 2)

        def forward(self, x):
            q = self.learned.expand(-1, x.shape[1], -1)
            return self.attention(*((q, x, x) if queries else (x, q, q)), need_weights=False)[0]

    found = count(Pooled(), [meta(5, 3, 8, grad=False)])
    products = 2 * 3 * 2 * 5 * 8
    assert found.forward.macs == 3 * 64 * 2 * (2 + 5) + products


def test_what_the_result_does_not_depend_on_has_no_backward_pass():
    """As in a codebook whose entry is chosen by argmin, or in a score that is only shown."""

    class Aside(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.aside = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            chosen = self.aside(x).argmin(1)
            out = F.relu(self.used(x[:, None]), inplace=True)
            return out[:, 0] + chosen[:, None]

    found = {layer.name: layer for layer in count(Aside(), [meta(3, 4)]).layers}
    assert found["aside"].forward.macs == found["used"].forward.macs == 48
    assert (found["aside"].weight_grad.macs, found["aside"].input_grad.macs) == (0, 0)
    assert (found["used"].weight_grad.macs, found["used"].input_grad.macs) == (48, 48)


def test_the_backward_pass_of_a_spectral_norm():
    """Linear layers of 1024 x 32 and 32 x 10 on one picture: weights, and the second one's input."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.utils.spectral_norm(nn.Linear(1024, 32)), nn.Linear(32, 10)

        def forward(self, x):
            return self.last(torch.relu(self.first(x.flatten(1))))

    found = count(Net(), [meta(1, 1, 32, 32, grad=False)], training=True)
    assert 2 * found.backward.macs == 2 * (1024 * 32 + 2 * 32 * 10)
    # The power method: Wᵀu, Wv, and for σ Wv and u·.
    assert found.forward.macs == 4 * 1024 * 32 + 32 + 320


def test_a_straight_through_estimator_is_counted():
    """Its backward pass does no arithmetic: what it is made of costs nothing."""

    class Through(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.round()

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    found = count(nn.Sequential(nn.Linear(3, 4), Call(Through.apply)), [meta(2, 3)])
    assert (found.forward.macs, found.backward.macs) == (24, 48)


def test_both_forms_of_gelu_have_their_own_cost():
    found = [count(nn.GELU(approximate=form), [meta(10)]).forward.other for form in ("none", "tanh")]
    assert found == [50, 90]
