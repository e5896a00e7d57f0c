"""From a model's name to its settings dataclass, and what can be checked of a model without torch."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from hpctrain.errors import UserError
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


def check_target(target: str) -> None:
    """A user's `package.module:Class`, as far as its text says; the current folder is searched too."""
    module, _, kind = target.partition(":")
    if not module or not kind:
        raise UserError("model.target", target, "must be package.module:Class")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        raise UserError("model.target", target, f"there is no module {module.partition('.')[0]} here")


def check_weights(weights: str) -> None:
    """Raises UserError if there is no such file."""
    if not Path(weights).is_file():
        raise UserError("model.weights", weights, "no such file")
