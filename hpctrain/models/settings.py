"""From a model's name to its settings dataclass. Imports no torch; no side effects."""

from __future__ import annotations

from hpctrain.models import settings_image as image
from hpctrain.models import settings_sequence as sequence

SETTINGS: dict[str, type] = {
    "perceptron": image.PerceptronSettings,
    "mlp": image.MLPSettings,
    "lenet": image.LeNetSettings,
    "alexnet": image.AlexNetSettings,
    "vgg11": image.VGG11Settings,
    "vgg13": image.VGG13Settings,
    "vgg16": image.VGGSettings,
    "vgg19": image.VGG19Settings,
    "googlenet": image.GoogLeNetSettings,
    "resnet18": image.ResNet18Settings,
    "resnet34": image.ResNet34Settings,
    "resnet50": image.ResNetSettings,
    "resnet101": image.ResNet101Settings,
    "resnet152": image.ResNet152Settings,
    "rnn": sequence.RNNSettings,
    "birnn": sequence.BiRNNSettings,
    "gru": sequence.GRUSettings,
    "lstm": sequence.LSTMSettings,
    "deep_speech2": sequence.DeepSpeech2Settings,
    "gnmt": sequence.GNMTSettings,
    "gnmt_moe": sequence.GNMTMoESettings,
}
