"""Settings of networks that see sequences: which go together, and the sizes that follow from them."""

import pytest

from hpctrain.models.network import Mixture
from hpctrain.models.settings_sequence import (
    NETWORKS,
    BiRNNSettings,
    DeepSpeech2Settings,
    GNMTMoESettings,
    RecurrentSettings,
    RNNSettings,
)

ONE_KERNEL = {"conv_channels": (8,), "conv_kernels": ((5, 3),), "conv_strides": ((2, 2),)}
LENGTHS = "conv_channels, conv_kernels and conv_strides must be of one length, at least 1"


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (RecurrentSettings, {"nonlinearity": "relu"}, "model.nonlinearity=relu: needs model=rnn or birnn, not lstm"),
        (RecurrentSettings, {"dropout_input": 0.5, "input": "one_hot"},
         "model.dropout_input=0.5: needs model.input=embedding; a one-hot word has no units to drop"),
        (RecurrentSettings, {"tied": True, "input": "one_hot"},
         "model.tied=true: needs model.input=embedding; one-hot words have no matrix to tie"),
        (RecurrentSettings, {"tied": True, "hidden": 8},
         "model.tied=true: needs model.embedding=8, the width of the last layer, not 650"),
        (BiRNNSettings, {"tied": True, "hidden": 8, "embedding": 8},
         "model.tied=true: needs model.embedding=16, the width of the last layer, not 8"),
        (DeepSpeech2Settings, {"conv_channels": (32,)}, f"model.conv_channels=[32]: {LENGTHS}"),
        (DeepSpeech2Settings, {"conv_channels": (), "conv_kernels": (), "conv_strides": ()},
         f"model.conv_channels=[]: {LENGTHS}"),
        (DeepSpeech2Settings, ONE_KERNEL | {"conv_strides": ((2, 2), (2, 2))}, f"model.conv_channels=[8]: {LENGTHS}"),
        (DeepSpeech2Settings, {"lookahead": 1},
         "model.lookahead: needs model.bidirectional=false (a bidirectional layer sees all)"),
        (DeepSpeech2Settings, ONE_KERNEL | {"frequency_bins": 4},
         "model.frequency_bins=4: leaves 4 bins to a convolution of kernel 5 and stride 2"),
        (DeepSpeech2Settings, ONE_KERNEL | {"frequency_bins": 6, "conv_strides": ((7, 1),)},
         "model.frequency_bins=6: leaves 6 bins to a convolution of kernel 5 and stride 7"),
        (GNMTMoESettings, {"width": 9, "hidden": 8},
         "model.width=9: must be ≤ model.hidden=8, which is projected to it"),
        (GNMTMoESettings, {"active": 4, "groups": 3},
         "model.active=4: must be ≤ model.groups=3 and ≤ model.experts_per_group=128"),
        (GNMTMoESettings, {"active": 4, "experts_per_group": 3},
         "model.active=4: must be ≤ model.groups=16 and ≤ model.experts_per_group=3"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(kind, given, said):
    with pytest.raises(ValueError, match=r"model\.") as refusal:
        kind(**given)
    assert str(refusal.value) == said


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (RNNSettings, {"nonlinearity": "relu"}),
        (RecurrentSettings, {"dropout_input": 0.5}),
        (RecurrentSettings, {"input": "one_hot"}),
        (RecurrentSettings, {"tied": True, "hidden": 8, "embedding": 8}),
        (BiRNNSettings, {"tied": True, "hidden": 8, "embedding": 16}),
        (DeepSpeech2Settings, {"lookahead": 1, "bidirectional": False}),
        (DeepSpeech2Settings, ONE_KERNEL | {"frequency_bins": 5}),
        (GNMTMoESettings, {"width": 8, "hidden": 8}),
        (GNMTMoESettings, {"active": 3, "groups": 3, "experts_per_group": 3}),
    ],
)
def test_what_just_goes_together_is_taken(kind, given):
    assert given.items() <= vars(kind(**given)).items()


@pytest.mark.parametrize(
    ("given", "frequencies", "steps"),
    [
        ({}, (161, 81, 41, 21), 50),
        (ONE_KERNEL | {"frequency_bins": 9, "example_length": 11}, (9, 5), 6),
        (ONE_KERNEL | {"conv_kernels": ((161, 11),), "conv_strides": ((1, 2),)}, (161, 1), 50),
        # A kernel as high as its input spans all frequencies.
        (ONE_KERNEL | {"frequency_bins": 5, "conv_kernels": ((5, 4),), "example_length": 11}, (5, 1), 6),
        ({"conv_strides": ((2, 3), (2, 1), (2, 2)), "example_length": 40}, (161, 81, 41, 21), 7),
    ],
)
def test_what_convolutions_leave_of_a_spectrogram(given, frequencies, steps):
    settings = DeepSpeech2Settings(**given)
    assert (settings.frequencies(), settings.example_steps()) == (frequencies, steps)


def test_the_experts_of_a_mixture():
    settings = GNMTMoESettings(
        width=6, hidden=7, groups=3, experts_per_group=5, expert_hidden=11, active=2, capacity_factor=1.5
    )
    assert settings.mixture() == Mixture(
        layers=2,
        experts=15,
        active=4,
        expert_params=132,
        width=6,
        capacity=1.5,
        gates=r"\.(primary|secondary)",
    )


@pytest.mark.parametrize("name", ["lstm", "gnmt", "gnmt_moe"])
def test_a_sample_has_as_many_words_as_the_example(name):
    network = NETWORKS[name]
    assert network.unit.in_sample(network.settings(example_length=7)) == 7
