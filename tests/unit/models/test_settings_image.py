"""Settings of networks that see images: which go together, how small an image may be, and what a window leaves."""

import pytest

from hpctrain.models.settings_image import (
    AlexNetSettings,
    GoogLeNetSettings,
    LeNetSettings,
    ResNetSettings,
    VGGSettings,
    check_input,
    size_after,
    smallest_size,
)


@pytest.mark.parametrize(
    ("size", "windows", "left"),
    [
        (10, [], 10),
        (10, [(3, 1, 0)], 8),
        (10, [(3, 1, 1)], 10),
        (10, [(3, 2, 0)], 4),  # floor mode
        (10, [(3, 2, 1), (2, 2, 0)], 2),
        (3, [(3, 1, 0)], 1),
        (1, [(3, 5, 1)], 1),
        (2, [(3, 1, 0)], 0),
        (2, [(3, 1, 0), (1, 1, 2)], 4),
    ],
)
def test_the_pixels_that_windows_leave(size, windows, left):
    assert size_after(size, windows) == left


def test_the_smallest_size_is_looked_for_from_one_pixel_on():
    assert smallest_size(lambda size: size >= 1) == 1
    assert smallest_size(lambda size: size >= 1023) == 1023


@pytest.mark.parametrize("shape", [(1, 7, 8), (1, 8, 7), (9, 7, 7)])
def test_both_sides_of_an_image_count_and_its_channels_do_not(shape):
    check_input((1, 8, 8), 8)
    with pytest.raises(ValueError, match="height and width") as refusal:
        check_input(shape, 8, " (advice)")
    sizes = ",".join(map(str, shape))
    expected = (
        f"model.input_shape={sizes}: height and width must be at least 8 for this network's strides (advice)"
    )
    assert str(refusal.value) == expected


SMALL = "model.input_shape={}: height and width must be at least {} for this network's strides{}"
PAD = " (data.pad or model.padding enlarges it)"


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (LeNetSettings, {"input_shape": (1, 31, 31)}, SMALL.format("1,31,31", 32, PAD)),
        (LeNetSettings, {"input_shape": (1, 28, 28), "padding": 1}, SMALL.format("1,28,28", 30, PAD)),
        (LeNetSettings, {"variant": "1998", "num_classes": 129},
         "model.num_classes=129: must be ≤ 128 with model.variant=1998"),
        (AlexNetSettings, {"input_shape": (3, 62, 62)}, SMALL.format("3,62,62", 63, "")),
        (AlexNetSettings, {"variant": "ungrouped", "input_shape": (3, 66, 66)}, SMALL.format("3,66,66", 67, "")),
        (AlexNetSettings, {"variant": "grouped", "channels": (4, 4, 4, 4, 3)},
         "model.channels=(4, 4, 4, 4, 3): must be even with model.variant=grouped"),
        (VGGSettings, {"input_shape": (3, 31, 31)}, SMALL.format("3,31,31", 32, "")),
        (GoogLeNetSettings, {"input_shape": (3, 31, 31)}, SMALL.format("3,31,31", 32, "")),
        (ResNetSettings, {"input_shape": (3, 31, 31)}, SMALL.format("3,31,31", 32, " (model.stem=cifar takes 8)")),
        (ResNetSettings, {"input_shape": (3, 7, 7), "stem": "cifar"}, SMALL.format("3,7,7", 8, "")),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(kind, given, said):
    with pytest.raises(ValueError, match="must be") as refusal:
        kind(**given)
    assert str(refusal.value) == said


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (LeNetSettings, {"input_shape": (1, 32, 32)}),
        (LeNetSettings, {"input_shape": (1, 28, 28), "padding": 2}),
        (LeNetSettings, {"variant": "1998", "num_classes": 128}),
        (LeNetSettings, {"num_classes": 129}),
        (AlexNetSettings, {"input_shape": (3, 63, 63)}),
        (AlexNetSettings, {"variant": "grouped", "input_shape": (3, 67, 67), "channels": (2, 4, 6, 8, 2)}),
        (AlexNetSettings, {"variant": "ungrouped", "channels": (1, 3, 5, 7, 9)}),
        (VGGSettings, {"input_shape": (3, 32, 32)}),
        (GoogLeNetSettings, {"input_shape": (3, 32, 32)}),
        (ResNetSettings, {"input_shape": (3, 32, 32)}),
        (ResNetSettings, {"input_shape": (3, 8, 8), "stem": "cifar"}),
    ],
)
def test_what_is_just_large_enough_is_taken(kind, given):
    settings = kind(**given)
    assert given.items() <= vars(settings).items()


def test_lenet_s_windows_and_alexnet_s():
    assert LeNetSettings(padding=2).windows() == ((5, 1, 2), (2, 2, 0), (5, 1, 0), (2, 2, 0), (5, 1, 0))
    rest = ((3, 2, 0), (5, 1, 2), (3, 2, 0), (3, 1, 1), (3, 1, 1), (3, 1, 1), (3, 2, 0))
    assert AlexNetSettings().windows() == ((11, 4, 2), *rest)
    assert AlexNetSettings(variant="grouped").windows() == ((11, 4, 0), *rest)
    # Worked by hand: torchvision's 224 pixels and the paper's 227.
    assert size_after(224, AlexNetSettings().windows()) == 6
    assert size_after(227, AlexNetSettings(variant="grouped").windows()) == 6


@pytest.mark.parametrize(
    ("given", "widths"),
    [
        ({}, (64, 192, 384, 256, 256)),
        ({"variant": "grouped"}, (96, 256, 384, 384, 256)),
        ({"variant": "ungrouped"}, (96, 256, 384, 384, 256)),
        ({"variant": "grouped", "channels": (2, 4, 6, 8, 2)}, (2, 4, 6, 8, 2)),
    ],
)
def test_alexnet_s_channels_are_the_variant_s_own_or_given(given, widths):
    assert AlexNetSettings(**given).widths() == widths
