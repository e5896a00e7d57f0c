"""Deep Speech 2: small networks do real steps, padding changes nothing, streaming sees as far as told."""

import pytest
import torch
from torch.nn import functional as F

from hpctrain.models import build
from hpctrain.models.deep_speech import Lookahead, over_steps
from hpctrain.models.settings_sequence import DeepSpeech2Settings

BINS, FRAMES = 16, 24
SIZES = {
    "frequency_bins": BINS,
    "conv_channels": (3, 4),
    "conv_kernels": ((5, 5), (3, 3)),
    "conv_strides": ((2, 2), (2, 1)),
    "hidden": 6,
    "layers": 2,
    "vocabulary_size": 5,
    "bias": True,
    "norm_affine": True,
}


def small(**settings):
    torch.manual_seed(0)
    return build("deep_speech2", DeepSpeech2Settings(**SIZES | settings))


def sound(frames=FRAMES, batch=2):
    return torch.randn(batch, 1, BINS, frames, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"cell": "gru", "full_layers": 1},
        {"bidirectional": False, "lookahead": 2, "cell": "gru"},
        {"batch_norm": False},
        {"conv_channels": (4,), "conv_kernels": ((BINS, 5),), "conv_strides": ((1, 2),)},
    ],
)
def test_a_real_step_reaches_every_parameter(settings):
    model = small(**settings)
    logs, lengths = model(sound(), torch.tensor([FRAMES, 17]))
    assert logs.shape == (FRAMES // 2, 2, 5)
    assert lengths.tolist() == [12, 9]
    torch.testing.assert_close(logs.exp().sum(-1), torch.ones(FRAMES // 2, 2))
    F.ctc_loss(logs, torch.tensor([[1, 2, 1], [3, 4, 0]]), lengths, torch.tensor([3, 2])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("settings", [{}, {"cell": "gru"}, {"bidirectional": False, "lookahead": 3}])
@pytest.mark.parametrize("training", [True, False])
def test_padding_changes_nothing(settings, training):
    model = small(**settings).train(training)
    lengths = torch.tensor([FRAMES, 17])
    x = sound()
    noisy = x.clone()
    noisy[1, ..., 17:] = 1e3
    padded = F.pad(x, (0, 6), value=-50.0)
    expected, steps = model(x, lengths)
    for other in (noisy, padded):
        logs, other_steps = model(other, lengths)
        assert torch.equal(other_steps, steps)
        for i, valid in enumerate(steps):
            torch.testing.assert_close(logs[:valid, i], expected[:valid, i], rtol=1e-4, atol=1e-5)


def test_full_lengths_are_the_default():
    model = small()
    logs, steps = model(sound())
    expected, expected_steps = model(sound(), torch.tensor([FRAMES, FRAMES]))
    torch.testing.assert_close(logs, expected)
    assert torch.equal(steps, expected_steps)


def test_directions_share_input_weights_and_are_summed():
    layer = small().layers[0].eval()
    x = torch.randn(7, 2, layer.input.in_features)
    both = layer(x, None)
    layer.recurrent = layer.recurrent[:1]
    forwards = layer(x, None)
    backwards_alone = small().layers[0].eval()
    backwards_alone.recurrent = backwards_alone.recurrent[1:]
    backwards = backwards_alone(x.flip(0), None).flip(0)
    torch.testing.assert_close(both, forwards + backwards)


def test_streaming_sees_only_so_far_ahead():
    model = small(bidirectional=False, lookahead=2).eval()
    x = sound()
    changed = x.clone()
    changed[..., -1] += 1
    same = (model(x)[0] == model(changed)[0]).all(dim=(1, 2)).tolist()
    # Frame 23 enters step 11 of the first convolution (frames 20 to 24), from there step 10 of the second
    # (steps 9 to 11); two steps of look-ahead make step 8 the first to see it.
    assert same == [True] * 8 + [False] * 4


def test_lookahead_is_a_weighted_sum_of_the_next_steps():
    layer, x = Lookahead(4, 2), torch.randn(6, 3, 4)
    weights = layer.conv.weight[:, 0]
    expected = torch.stack([
        sum(weights[:, j] * x[t + j] for j in range(3) if t + j < 6) for t in range(6)
    ])  # fmt: skip
    torch.testing.assert_close(layer(x), expected)


def test_normalisation_is_over_valid_steps_of_all_samples():
    mask = torch.tensor([[True, True], [True, False]])
    x = torch.tensor([[[1.0], [2.0]], [[6.0], [99.0]]])
    y = over_steps(torch.nn.BatchNorm1d(1, eps=1e-9), x, mask)
    scale = (((1 - 3) ** 2 + (2 - 3) ** 2 + (6 - 3) ** 2) / 3) ** 0.5
    torch.testing.assert_close(y.flatten(), torch.tensor([-2.0, -1.0, 3.0, 0.0]) / torch.tensor(scale))
