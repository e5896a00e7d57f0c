"""GNMT and its mixture of experts: real steps, causality, padding, and gating against a plain loop."""

import math

import pytest
import torch
from torch.nn import functional as F

from hpctrain.models import WithAuxiliary, build
from hpctrain.models.gnmt import Attention
from hpctrain.models.mixture import MixtureOfExperts, assign, variation
from hpctrain.models.settings_sequence import GNMTMoESettings, GNMTSettings

V = 13
PLAIN = GNMTSettings(
    vocabulary_size=V, hidden=6, encoder_layers=4, decoder_layers=3, dropout=0.0, init_range=0.5
)
MOE = {"vocabulary_size": V, "width": 6, "hidden": 8, "attention": 5, "groups": 3, "experts_per_group": 4,
       "expert_hidden": 7, "capacity_factor": 6.0, "dropout": 0.0, "init_range": 0.5}  # fmt: skip
LENGTHS = torch.tensor([7, 4, 1])


def small(settings):
    torch.manual_seed(0)
    return build("gnmt" if isinstance(settings, GNMTSettings) else "gnmt_moe", settings)


def sentences(length, seed=0):
    return torch.randint(V, (3, length), generator=torch.Generator().manual_seed(seed))


NETWORKS = [PLAIN, GNMTMoESettings(**MOE), GNMTMoESettings(**MOE | {"bias": True, "gate_noise": True})]


@pytest.mark.parametrize("settings", NETWORKS)
def test_a_real_step_reaches_every_parameter(settings):
    model = small(settings)
    if isinstance(settings, GNMTMoESettings):  # a gate that starts from zero feels no load at first
        for gate in (p for name, p in model.named_parameters() if "ary" in name):
            torch.nn.init.normal_(gate)
    output = model(sentences(7), LENGTHS, sentences(5, 1))
    auxiliary = output.auxiliary if isinstance(output, WithAuxiliary) else ()
    logits = output.logits if isinstance(output, WithAuxiliary) else output
    assert logits.shape == (3, 5, V)
    assert len(auxiliary) == (0 if settings is PLAIN else 2)
    loss = F.cross_entropy(logits.flatten(0, 1), sentences(5, 2).flatten()) + sum(auxiliary)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("settings", NETWORKS)
def test_padding_and_the_words_to_come_change_nothing(settings):
    model = small(settings).eval()
    source, target = sentences(7), sentences(5, 1)
    expected = model(source, LENGTHS, target)
    other = source.clone()
    other[1, 4:] = (other[1, 4:] + 1) % V
    other[2, 1:] = (other[2, 1:] + 3) % V
    torch.testing.assert_close(model(F.pad(other, (0, 2)), LENGTHS, target), expected)
    later = target.clone()
    later[:, 3:] = (later[:, 3:] + 1) % V
    torch.testing.assert_close(model(source, LENGTHS, later)[:, :3], expected[:, :3])
    changed = source.clone()
    changed[0, 6] = (changed[0, 6] + 1) % V
    assert not torch.equal(model(changed, LENGTHS, target)[0], expected[0])


@pytest.mark.parametrize("settings", NETWORKS)
def test_mixed_precision_is_near(settings):
    model = small(settings).eval()
    inputs = sentences(7), LENGTHS, sentences(5, 1)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(*inputs)
    error = (logits.float() - model(*inputs)).abs()
    # The gates' choice may flip where two scores are near, so not every word need agree.
    assert error.median() < 0.05
    logits.float().sum().backward()


def test_the_last_word_reaches_the_first_steps_of_the_encoder():
    """The bottom layer reads both ways, from each sentence's own end."""
    model = small(PLAIN).eval()
    source = sentences(7)
    changed = source.clone()
    changed[1, 3] = (changed[1, 3] + 1) % V
    before, after = model._encode(source, LENGTHS), model._encode(changed, LENGTHS)
    assert not torch.equal(before[1, 0], after[1, 0])
    assert torch.equal(before[0], after[0])


def test_dropout_acts_in_training_only():
    model = small(GNMTSettings(vocabulary_size=V, hidden=6, encoder_layers=2, decoder_layers=2, dropout=0.5))
    inputs = sentences(7), LENGTHS, sentences(5)
    assert not torch.equal(model(*inputs), model(*inputs))
    model.eval()
    assert torch.equal(model(*inputs), model(*inputs))


@pytest.mark.parametrize("product", [False, True])
def test_attention_by_its_formula(product):
    torch.manual_seed(0)
    layer, query, memory = Attention(4, 5, 3, product=product), torch.randn(2, 4), torch.randn(2, 6, 5)
    mask = torch.tensor([[True] * 6, [True] * 2 + [False] * 4])
    contexts = layer(query, layer.key(memory), memory, mask)
    w, u, v = layer.query.weight, layer.key.weight, layer.score.weight[0]
    for i, length in enumerate((6, 2)):
        asked, keys = w @ query[i], [u @ memory[i, s] for s in range(length)]
        scores = [
            v @ (torch.tanh(asked) * torch.tanh(key) if product else torch.tanh(asked + key)) for key in keys
        ]
        shares = torch.stack(scores).softmax(0)
        torch.testing.assert_close(contexts[i], sum(shares[s] * memory[i, s] for s in range(length)))


def test_places_are_given_in_order_until_an_expert_is_full():
    chosen = torch.tensor([2, 0, 2, 2, 3, 0, 1])  # 3 experts: the entry of value 3 wants none
    assert assign(chosen, 3, 2).tolist() == [4, 0, 5, 6, 6, 1, 2]


def by_loop(layer, x, k, each):
    """Appendix B's sum, one vector and one expert at a time."""
    result = torch.zeros_like(x)
    for n, vector in enumerate(x):
        groups = layer.primary.score(vector).topk(k)
        for share, group in zip(groups.values.softmax(0), groups.indices, strict=True):
            scores = layer.secondary.score(vector).view(-1, each)[group].topk(k)
            for weight, expert in zip(scores.values.softmax(0), scores.indices, strict=True):
                number = group * each + expert
                hidden = torch.relu(vector @ layer.w_in[number])
                result[n] += share * weight * (hidden @ layer.w_out[number])
    return result


def mixture(**settings):
    torch.manual_seed(0)
    layer = MixtureOfExperts(GNMTMoESettings(**MOE | settings))
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


def test_two_level_gating_equals_its_sum():
    layer, x = mixture(), torch.randn(20, 6)
    torch.testing.assert_close(layer.eval()(x)[0], by_loop(layer, x, 2, 4), rtol=1e-4, atol=1e-4)
    mask = torch.arange(20) % 3 > 0
    expected = by_loop(layer, x, 2, 4) * mask[:, None]
    torch.testing.assert_close(layer(x, mask)[0], expected, rtol=1e-4, atol=1e-4)


def test_capacity_bounds_an_experts_share():
    layer, x = mixture(capacity_factor=1.0).eval(), torch.randn(30, 6)
    assert layer.capacity(30) == math.ceil(30 * 4 / 12)
    assert layer.capacity(1) == 1
    same = x[:1].expand(30, -1)  # all want the same four experts, which have ten places each
    answered = layer(same)[0].abs().sum(-1) > 0
    assert answered.tolist() == [True] * 10 + [False] * 20


def test_balancing_losses():
    even, uneven = torch.ones(4), torch.tensor([4.0, 0.0, 0.0, 0.0])
    assert variation(even) == 0
    torch.testing.assert_close(variation(uneven), torch.tensor(3.0))
    layer, x = mixture(importance_weight=1.0), torch.randn(40, 6)
    loss = layer(x)[1]
    assert layer.eval()(x)[1] is None
    chosen, weights, _ = layer._choose(x, None)
    importance = torch.zeros(12).index_add(0, chosen.flatten(), weights.flatten())
    torch.testing.assert_close(loss, variation(importance))
    torch.testing.assert_close(weights.sum(-1), torch.ones(40))


def test_load_is_the_expected_number_of_vectors():
    """With little noise the smooth estimate of appendix A is the count itself: k² a vector in all."""
    layer, x = mixture(gate_noise=True), torch.randn(50, 6)
    with torch.no_grad():
        for gate in (layer.primary, layer.secondary):
            gate.score.weight.mul_(100)
            gate.noise.weight.zero_()
        first = layer.primary(x)
        group = first.noisy.topk(2, -1).indices
        second = layer.secondary(x).of_groups(group, 4)
        load = layer._load(first, second, group, None)
        chosen = (group[..., None] * 4 + second.noisy.topk(2, -1).indices).flatten()
        count = torch.bincount(chosen, minlength=12).view(3, 4).float()
    torch.testing.assert_close(load, count, rtol=0.05, atol=1.0)
    assert load.sum().item() == pytest.approx(50 * 4, rel=0.02)
