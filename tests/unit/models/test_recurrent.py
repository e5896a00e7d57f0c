"""Recurrent language models: torch's own results, one-hot words, carried state, dropout, gradients."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hpctrain.models import build
from hpctrain.models.cells import GATES, unroll
from hpctrain.models.settings import SETTINGS

V, H, B, T = 11, 6, 3, 7
NAMES = ("rnn", "birnn", "gru", "lstm")


def small(name, **settings):
    torch.manual_seed(0)
    defaults = {"vocabulary_size": V, "embedding": 5, "hidden": H, "init_range": 0.5}
    return build(name, SETTINGS[name](**defaults | settings))


def words(seed=0, length=T):
    return torch.randint(V, (B, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["embedding", "one_hot"])
@pytest.mark.parametrize("layers", [1, 3])
def test_a_real_step_reaches_every_parameter(name, kind, layers):
    model = small(name, input=kind, layers=layers)
    logits, carry = model(words())
    assert logits.shape == (B, T, V)
    assert (carry is None) == (name == "birnn")
    F.cross_entropy(logits.flatten(0, 1), words(1).flatten()).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize(
    ("name", "nonlinearity"), [("rnn", "tanh"), ("rnn", "relu"), ("gru", "tanh"), ("lstm", "tanh")]
)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_one_hot_words_equal_their_gather(name, nonlinearity, bidirectional):
    """torch's own layer over the real (B, T, N) tensor of ones and zeros has the same result."""
    cell, name = name, "birnn" if bidirectional else name
    model = small(name, cell=cell, nonlinearity=nonlinearity, input="one_hot", layers=1)
    kind = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[cell]
    extra = {"nonlinearity": nonlinearity} if cell == "rnn" else {}
    reference = kind(V, H, batch_first=True, bidirectional=bidirectional, **extra)
    with torch.no_grad():
        for suffix, layer in zip(("", "_reverse"), model.one_hot, strict=False):
            nn.init.normal_(layer.recurrent.weight, std=0.3)
            nn.init.normal_(layer.recurrent.bias)
            getattr(reference, f"weight_ih_l0{suffix}").copy_(layer.columns.weight.T)
            getattr(reference, f"bias_ih_l0{suffix}").zero_()
            getattr(reference, f"weight_hh_l0{suffix}").copy_(layer.recurrent.weight)
            getattr(reference, f"bias_hh_l0{suffix}").copy_(layer.recurrent.bias)
    one_hot = F.one_hot(words(), V).float()
    assert one_hot.shape == (B, T, V)
    expected = model.decoder(reference(one_hot)[0])
    logits, _ = model(words())
    torch.testing.assert_close(logits, expected)
    logits.square().sum().backward()
    gradient = model.one_hot[0].columns.weight.grad.clone()
    expected.square().sum().backward()
    torch.testing.assert_close(gradient, reference.weight_ih_l0.grad.T, rtol=1e-4, atol=1e-5)


def test_an_embedding_is_a_one_hot_product():
    model = small("lstm")
    product = F.one_hot(words(), V).float() @ model.embedding.weight
    torch.testing.assert_close(product, model.embedding(words()))


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("kind", ["embedding", "one_hot"])
def test_the_carried_state_continues_a_stream(name, kind):
    model = small(name, input=kind, layers=2).eval()
    whole, end = model(words())
    first, carry = model(words()[:, :3])
    assert all(part.shape == (2, B, H) for part in carry)
    assert len(carry) == (2 if name == "lstm" else 1)
    second, last = model(words()[:, 3:], tuple(part.detach() for part in carry))
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    for part, expected in zip(last, end, strict=True):
        torch.testing.assert_close(part, expected)


@pytest.mark.parametrize("kind", ["embedding", "one_hot"])
def test_who_sees_the_future(kind):
    changed = words().clone()
    changed[:, -1] = (changed[:, -1] + 1) % V
    for name, sees in (("lstm", False), ("birnn", True)):
        model = small(name, input=kind, layers=2).eval()
        same = torch.equal(model(words())[0][:, 0], model(changed)[0][:, 0])
        assert same != sees


def test_tied_weights_are_one_tensor():
    model = small("lstm", embedding=H, tied=True)
    assert model.decoder.weight is model.embedding.weight
    assert sum(1 for name, _ in model.named_parameters() if name.endswith("weight")) == 1
    both = small("birnn", embedding=2 * H, tied=True)
    assert both(words())[0].shape == (B, T, V)


DROPOUTS = ("dropout_input", "dropout_between", "dropout_output", "weight_drop")


@pytest.mark.parametrize(
    ("kind", "where"), [("embedding", d) for d in DROPOUTS] + [("one_hot", d) for d in DROPOUTS[1:]]
)
def test_each_dropout_acts_in_training_only(kind, where):
    model = small("lstm", input=kind, layers=2, **{where: 0.5})
    names = {name for name, _ in model.named_parameters()}
    noisy = [model(words())[0] for _ in range(2)]
    assert not torch.equal(*noisy)
    noisy[0].sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == names
    model.eval()
    assert torch.equal(model(words())[0], model(words())[0])
    torch.testing.assert_close(model(words())[0], small("lstm", input=kind, layers=2).eval()(words())[0])


def test_dropped_weights_get_no_gradient():
    model = small("lstm", layers=1, weight_drop=0.5)
    torch.manual_seed(3)
    model(words())[0].square().sum().backward()
    share = (model.rnn.weight_hh_l0.grad == 0).float().mean()
    assert 0.3 < share < 0.7
    assert (model.rnn.weight_ih_l0.grad != 0).any()


def test_initialisation():
    medium = small("lstm", init_range=0.05)
    assert max(p.abs().max() for p in medium.parameters()) <= 0.05
    torchs = small("gru", init_range=None)
    assert 0.9 * H**-0.5 < max(p.abs().max() for p in torchs.parameters()) <= H**-0.5
    identity = small("rnn", nonlinearity="relu", layers=1)
    assert torch.equal(identity.rnn.weight_hh_l0, torch.eye(H))
    assert not identity.rnn.bias_hh_l0.any()


@pytest.mark.parametrize("cell", GATES)
def test_a_masked_reverse_pass_starts_at_each_ones_end(cell):
    generator = torch.Generator().manual_seed(0)
    projected = torch.randn(5, 2, GATES[cell] * H, generator=generator)
    recurrent = nn.Linear(H, GATES[cell] * H)
    state = tuple(torch.zeros(2, H) for _ in range(2 if cell == "lstm" else 1))
    lengths = torch.tensor([5, 3])
    mask = torch.arange(5)[:, None] < lengths
    output, _ = unroll(cell, projected, recurrent, state, mask=mask, reverse=True)
    for i, length in enumerate(lengths):
        alone = tuple(part[i : i + 1] for part in state)
        expected, _ = unroll(cell, projected[:length, i : i + 1], recurrent, alone, reverse=True)
        torch.testing.assert_close(output[:length, i], expected[:, 0])
    assert not output[3:, 1].any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["embedding", "one_hot"])
def test_mixed_precision_is_near(name, kind):
    model = small(name, input=kind, layers=2)
    expected = model(words())[0]
    with torch.autocast("cpu", torch.bfloat16):
        logits, _ = model(words())
    torch.testing.assert_close(logits.float(), expected, rtol=0.05, atol=0.05)
    logits.float().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
