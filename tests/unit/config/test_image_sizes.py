"""Settings of pictures that do not go together, word by word; the size of the training images in each epoch."""

from types import SimpleNamespace

import pytest

from hpctrain.config.image_sizes import check_pictures, image_size, sized
from hpctrain.config.settings import DataConfig, ModelConfig, TaskConfig, TrainConfig
from hpctrain.data.derive import load
from hpctrain.errors import UserError
from hpctrain.models.settings_image import ResNet18Settings

RESNET = ModelConfig("resnet18", ResNet18Settings(stem="cifar", input_shape=(3, 32, 32)))
LENET = ModelConfig("lenet", None)
THEIRS = ModelConfig("custom", {}, target="module:Network")


def config(*sizes, model=RESNET, name="cifar10", shape=(3, 32, 32), task="classification", **data):
    return SimpleNamespace(
        model=model,
        data=DataConfig(name, shape=shape, **data),
        task=TaskConfig(task),
        train=TrainConfig(image_sizes=sizes),
    )


@pytest.mark.parametrize(
    "given",
    [
        config(),
        config((0, 8)),
        config((0, 16), (2, 32)),
        config((0, 32), (1, 16), (5, 32)),
        config((0, 4), model=THEIRS),  # the user answers for it
        config(model=LENET),
        config(name="imagenet", augment=("random_resized_crop", "flip")),
        config(augment=("flip", "pad_crop")),
        config(crop_scale=(1.0, 1.0), crop_ratio=(0.5, 0.5)),
        config(shape=(40,), task="language_model"),
    ],
)
def test_what_goes_together_is_taken(given):
    assert check_pictures(given) is None


SIZES = "train.image_sizes"
PLAN = "must begin with epoch 0, epochs rising: [[0,128],[6,224]]"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (config((1, 16)), f"{SIZES}=[[1,16]]: {PLAN}"),
        (config((0, 16), (3, 24), (2, 32)), f"{SIZES}=[[0,16],[3,24],[2,32]]: {PLAN}"),
        (config((0, 16), (0, 32)), f"{SIZES}=[[0,16],[0,32]]: {PLAN}"),
        (config((0, 16), shape=(40,)), f"{SIZES}=[[0,16]]: is for images"),
        (
            config((0, 16), model=LENET),
            f"{SIZES}=[[0,16]]: model=lenet is made for one size; alexnet, vgg11, vgg13, vgg16, vgg19, googlenet,"
            " resnet18, resnet34, resnet50, resnet101, resnet152 are not",
        ),
        (
            config((0, 16), (1, 4)),
            f"{SIZES}=[[0,16],[1,4]]: 4 pixels a side: height and width must be at least 8 for this network's strides",
        ),
        (
            config(augment=("flip", "random_resized_crop")),
            "data.augment=random_resized_crop: is for pictures in files: data=image_folder, imagenet,"
            " hugging_face_images",
        ),
        (config(crop_scale=(0.5, 0.2)), "data.crop_scale=[0.5, 0.2]: must be the least, then the most"),
        (config(crop_ratio=(2.0, 1.0)), "data.crop_ratio=[2.0, 1.0]: must be the least, then the most"),
    ],
)
def test_what_does_not_go_together_is_named(given, said):
    with pytest.raises(UserError) as caught:
        check_pictures(given)
    assert str(caught.value) == said


def test_each_run_is_checked():
    with pytest.raises(UserError, match=r"train\.image_sizes=\[\[1,16\]\]: must begin with epoch 0"):
        load(["data=cifar10", "model=resnet18", "model.stem=cifar", "train.image_sizes=[[1,16]]"])


def test_a_network_of_another_size_has_the_same_settings():
    found = sized(config(), 16)
    assert found.input_shape == (3, 16, 16)
    assert (found.stem, type(found)) == ("cifar", ResNet18Settings)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((), [None, None, None, None]),
        (((0, 16),), [16, 16, 16, 16]),
        (((0, 16), (2, 32)), [16, 16, 32, 32]),
        (((0, 16), (1, 24), (3, 32)), [16, 24, 24, 32]),
    ],
)
def test_each_epoch_has_the_size_that_was_last_begun(sizes, expected):
    assert [image_size(config(*sizes), epoch) for epoch in range(4)] == expected
