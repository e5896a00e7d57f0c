"""hpctrain.models.settings: defaults, bounds, smallest inputs, and that none of it needs torch."""

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hpctrain.config.load import model_config
from hpctrain.errors import UserError
from hpctrain.models.settings import SETTINGS
from hpctrain.models.settings_image import ResNet18Settings
from hpctrain.models.settings_sequence import GNMTMoESettings, GRUSettings, LSTMSettings

CONF = Path(__file__).parents[3] / "conf" / "model"


def resolved(name, **groups):
    """The model group of conf/model/NAME.yaml beside the given other groups, as plain containers."""
    root = OmegaConf.create({"model": OmegaConf.load(CONF / f"{name}.yaml"), **groups})
    OmegaConf.resolve(root)
    return OmegaConf.to_container(root.model)


def test_every_model_has_a_config_and_every_config_a_model():
    assert {path.stem for path in CONF.glob("*.yaml")} == {*SETTINGS, "custom"}


@pytest.mark.parametrize("name", SETTINGS)
def test_config_without_data_is_the_papers(name):
    config = model_config(resolved(name))
    assert config.name == name
    assert config.settings == SETTINGS[name]()


@pytest.mark.parametrize("name", [n for n, kind in SETTINGS.items() if hasattr(kind, "input_shape")])
def test_data_decides_input_and_classes(name):
    settings = model_config(resolved(name, data={"shape": [2, 64, 96], "num_classes": 7})).settings
    assert (settings.input_shape, settings.num_classes) == ((2, 64, 96), 7)


@pytest.mark.parametrize("name", [n for n, kind in SETTINGS.items() if hasattr(kind, "vocabulary_size")])
def test_data_decides_the_vocabulary(name):
    assert model_config(resolved(name, data={"vocabulary_size": 123})).settings.vocabulary_size == 123


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("mlp", {"hidden": [10, 0]}, "model.hidden.1=0"),
        ("vgg16", {"width": -3}, "model.width=-3"),
        ("resnet50", {"version": "v2"}, "must be one of v1, v1.5"),
        ("lstm", {"dropout_input": 1.0}, "model.dropout_input=1.0"),
        ("lstm", {"bidirectional": True}, "model.bidirectional=true: must be one of false"),
        ("lstm", {"nonlinearity": "relu"}, "model.nonlinearity=relu: needs model=rnn or birnn"),
        ("lstm", {"tied": True, "hidden": 8}, "needs model.embedding=8"),
        ("lstm", {"tied": True, "input": "one_hot"}, "needs model.input=embedding"),
        ("gru", {"dropout_input": 0.1, "input": "one_hot"}, "needs model.input=embedding"),
        ("lenet", {"input_shape": [1, 31, 32]}, "height and width must be at least 32"),
        ("lenet", {"variant": "1998", "num_classes": 129}, "must be ≤ 128"),
        ("alexnet", {"input_shape": [3, 62, 62]}, "at least 63"),
        ("alexnet", {"variant": "grouped", "channels": [3, 4, 4, 4, 4]}, "must be even"),
        ("vgg11", {"input_shape": [3, 31, 224]}, "at least 32"),
        ("googlenet", {"input_shape": [3, 8, 8]}, "at least 32"),
        ("resnet18", {"input_shape": [3, 28, 28]}, "model.stem=cifar takes 8"),
        ("resnet18", {"stem": "cifar", "input_shape": [3, 7, 7]}, "at least 8"),
        ("deep_speech2", {"lookahead": 2}, "needs model.bidirectional=false"),
        ("deep_speech2", {"conv_channels": [32]}, "must be of one length"),
        ("deep_speech2", {"frequency_bins": 40}, "40 bins to a convolution of kernel 41"),
        ("deep_speech2", {"frequency_bins": 41}, "bins to a convolution of kernel 21"),
        ("gnmt_moe", {"active": 17}, "must be ≤ model.groups=16"),
        ("gnmt_moe", {"width": 512, "hidden": 256}, "must be ≤ model.hidden=256"),
        ("gnmt", {"encoder_layers": 1}, "model.encoder_layers=1"),
        ("resnet18", {"widht": 3}, "did you mean width"),
    ],
)
def test_wrong_settings_are_one_line(name, wrong, said):
    with pytest.raises(UserError) as error:
        model_config(resolved(name) | wrong)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_named_variants_compare_as_their_family():
    assert ResNet18Settings() == ResNet18Settings()
    assert ResNet18Settings() != ResNet18Settings(width=32)
    assert hash(LSTMSettings()) == hash(LSTMSettings())
    assert LSTMSettings() != GRUSettings()
    assert repr(ResNet18Settings()).startswith("ResNet18Settings(blocks=(2, 2, 2, 2)")
    assert GNMTMoESettings().groups * GNMTMoESettings().experts_per_group == 2048


def test_settings_need_no_torch():
    code = "import sys, hpctrain.models.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
