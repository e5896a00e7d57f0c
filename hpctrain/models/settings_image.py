"""Settings of the networks that take images: one frozen dataclass per family, with the papers' values as defaults.

Takes plain values, returns checked dataclasses. Shapes are (channels, height, width); sizes are in pixels.
Bounds are `annotated_types`, read by pydantic; checks across fields raise ValueError in `__post_init__`. A class
that only changes defaults inherits its family's `__eq__` and `__repr__`, because generating each takes a
millisecond. Imports no torch; no side effects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BeforeValidator

from hpctrain.models.network import Network

Positive = Annotated[int, Ge(1), Le(10**7)]
Depth = Annotated[int, Ge(1), Le(1000)]  # layers of one kind
Shape = tuple[Positive, Positive, Positive]
Dropout = Annotated[float, Ge(0), Lt(1)]
Activation = Literal["identity", "sigmoid", "tanh", "relu"]

Window = tuple[int, int, int]  # kernel, stride, padding of a convolution or a pooling


def size_after(size: int, windows: Sequence[Window]) -> int:
    """Returns the pixels per side after `windows` in turn (floor mode); 0 or less if a window does not fit."""
    for kernel, stride, padding in windows:
        size = (size + 2 * padding - kernel) // stride + 1 if size + 2 * padding >= kernel else 0
    return size


def smallest_size(fits: Callable[[int], bool]) -> int:
    """Returns the least number of pixels per side for which `fits` is true."""
    return next(size for size in range(1, 1024) if fits(size))


def check_input(shape: Shape, least: int, advice: str = "") -> None:
    """Raises ValueError if an image of `shape` is smaller than `least` pixels per side."""
    if min(shape[1:]) < least:
        raise ValueError(
            f"model.input_shape={','.join(map(str, shape))}: "
            f"height and width must be at least {least} for this network's strides{advice}"
        )


@dataclass(frozen=True)
class PerceptronSettings:
    """One linear combination per class and one activation."""

    input_shape: Shape = (1, 28, 28)
    num_classes: Positive = 10
    activation: Activation = "identity"


@dataclass(frozen=True)
class MLPSettings:
    """Intermediate layers of the given widths; 784-300-100-10 is LeCun et al. 1998, section III.C.5."""

    input_shape: Shape = (1, 28, 28)
    num_classes: Positive = 10
    hidden: tuple[Positive, ...] = (300, 100)
    activation: Activation = "tanh"


@dataclass(frozen=True)
class LeNetSettings:
    """LeNet-5 (LeCun et al. 1998). `padding` is the first convolution's: 2 for 28x28 images."""

    variant: Annotated[Literal["modern", "1998"], BeforeValidator(str)] = (
        "modern"  # YAML reads 1998 as a number
    )
    input_shape: Shape = (1, 32, 32)
    num_classes: Positive = 10
    padding: Annotated[int, Ge(0), Le(10**6)] = 0

    def windows(self) -> tuple[Window, ...]:
        """Returns the windows of all convolutions and poolings in turn."""
        return (5, 1, self.padding), (2, 2, 0), (5, 1, 0), (2, 2, 0), (5, 1, 0)

    def __post_init__(self) -> None:
        least = smallest_size(lambda size: size_after(size, self.windows()) >= 1)
        check_input(self.input_shape, least, " (data.pad or model.padding enlarges it)")
        if self.variant == "1998" and self.num_classes > 128:
            raise ValueError(f"model.num_classes={self.num_classes}: must be ≤ 128 with model.variant=1998")


@dataclass(frozen=True)
class AlexNetSettings:
    """AlexNet (Krizhevsky 2012, 2014).

    `single_tower` is torchvision's; `grouped` is the two-GPU network of 2012; `ungrouped` has the same
    widths, with every convolution over all channels. `channels` None means the variant's own.
    """

    variant: Literal["single_tower", "grouped", "ungrouped"] = "single_tower"
    input_shape: Shape = (3, 224, 224)
    num_classes: Positive = 1000
    channels: tuple[Positive, Positive, Positive, Positive, Positive] | None = None
    hidden: Positive = 4096
    dropout: Dropout = 0.5

    def windows(self) -> tuple[Window, ...]:
        """Returns the windows of all convolutions and poolings in turn."""
        first = (11, 4, 2) if self.variant == "single_tower" else (11, 4, 0)
        return first, (3, 2, 0), (5, 1, 2), (3, 2, 0), (3, 1, 1), (3, 1, 1), (3, 1, 1), (3, 2, 0)

    def widths(self) -> tuple[int, int, int, int, int]:
        """Returns the channels of the five convolutions."""
        if self.channels is not None:
            return self.channels
        return (64, 192, 384, 256, 256) if self.variant == "single_tower" else (96, 256, 384, 384, 256)

    def __post_init__(self) -> None:
        check_input(self.input_shape, smallest_size(lambda size: size_after(size, self.windows()) >= 1))
        if self.variant == "grouped" and any(width % 2 for width in self.widths()):
            raise ValueError(f"model.channels={self.channels}: must be even with model.variant=grouped")


@dataclass(frozen=True)
class VGGSettings:
    """VGG (Simonyan & Zisserman 2015, Table 1). `convolutions` counts those in each of the five stages."""

    convolutions: tuple[Depth, Depth, Depth, Depth, Depth] = (2, 2, 3, 3, 3)
    batch_norm: bool = False
    input_shape: Shape = (3, 224, 224)
    num_classes: Positive = 1000
    width: Positive = 64
    hidden: Positive = 4096
    dropout: Dropout = 0.5

    def __post_init__(self) -> None:
        check_input(self.input_shape, 32)


@dataclass(frozen=True, eq=False, repr=False)
class VGG11Settings(VGGSettings):
    """Column A of Table 1."""

    convolutions: tuple[Depth, Depth, Depth, Depth, Depth] = (1, 1, 2, 2, 2)


@dataclass(frozen=True, eq=False, repr=False)
class VGG13Settings(VGGSettings):
    """Column B of Table 1."""

    convolutions: tuple[Depth, Depth, Depth, Depth, Depth] = (2, 2, 2, 2, 2)


@dataclass(frozen=True, eq=False, repr=False)
class VGG19Settings(VGGSettings):
    """Column E of Table 1."""

    convolutions: tuple[Depth, Depth, Depth, Depth, Depth] = (2, 2, 4, 4, 4)


@dataclass(frozen=True)
class GoogLeNetSettings:
    """GoogLeNet (Szegedy et al. 2015, Table 1).

    `paper` has 5x5 branches, biases and local response normalisation; `torchvision` has 3x3 in their
    place and batch normalisation. `auxiliary` adds the two heads that only training uses. `width`
    multiplies every layer's channels.
    """

    variant: Literal["paper", "torchvision"] = "paper"
    auxiliary: bool = False
    input_shape: Shape = (3, 224, 224)
    num_classes: Positive = 1000
    width: Annotated[float, Gt(0), Le(10**6)] = 1.0
    dropout: Dropout = 0.4

    def __post_init__(self) -> None:
        check_input(self.input_shape, 32)


@dataclass(frozen=True)
class ResNetSettings:
    """ResNet (He et al. 2016, Table 1). `blocks` counts those in each of the four stages.

    `v1.5` strides on a bottleneck's 3x3 convolution, `v1` (the paper) on its first 1x1. The `cifar`
    stem is one 3x3 convolution without stride or pooling, for images of about 32 pixels.
    """

    blocks: tuple[Depth, Depth, Depth, Depth] = (3, 4, 6, 3)
    bottleneck: bool = True
    version: Literal["v1", "v1.5"] = "v1.5"
    stem: Literal["imagenet", "cifar"] = "imagenet"
    input_shape: Shape = (3, 224, 224)
    num_classes: Positive = 1000
    width: Positive = 64
    zero_init_residual: bool = False

    def __post_init__(self) -> None:
        if self.stem == "imagenet":
            check_input(self.input_shape, 32, " (model.stem=cifar takes 8)")
        else:
            check_input(self.input_shape, 8)


@dataclass(frozen=True, eq=False, repr=False)
class ResNet18Settings(ResNetSettings):
    """The 18-layer network of Table 1."""

    blocks: tuple[Depth, Depth, Depth, Depth] = (2, 2, 2, 2)
    bottleneck: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class ResNet34Settings(ResNetSettings):
    """The 34-layer network of Table 1."""

    bottleneck: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class ResNet101Settings(ResNetSettings):
    """The 101-layer network of Table 1."""

    blocks: tuple[Depth, Depth, Depth, Depth] = (3, 4, 23, 3)


@dataclass(frozen=True, eq=False, repr=False)
class ResNet152Settings(ResNetSettings):
    """The 152-layer network of Table 1."""

    blocks: tuple[Depth, Depth, Depth, Depth] = (3, 8, 36, 3)


NETWORKS: dict[str, Network] = {
    "perceptron": Network(PerceptronSettings, "hpctrain.models.perceptron:Perceptron"),
    "mlp": Network(MLPSettings, "hpctrain.models.perceptron:MLP"),
    "lenet": Network(LeNetSettings, "hpctrain.models.lenet:lenet"),
    "alexnet": Network(AlexNetSettings, "hpctrain.models.alexnet:AlexNet", any_size=True),
    "vgg11": Network(VGG11Settings, "hpctrain.models.vgg:VGG", any_size=True),
    "vgg13": Network(VGG13Settings, "hpctrain.models.vgg:VGG", any_size=True),
    "vgg16": Network(VGGSettings, "hpctrain.models.vgg:VGG", any_size=True),
    "vgg19": Network(VGG19Settings, "hpctrain.models.vgg:VGG", any_size=True),
    "googlenet": Network(GoogLeNetSettings, "hpctrain.models.googlenet:GoogLeNet", any_size=True),
    "resnet18": Network(ResNet18Settings, "hpctrain.models.resnet:ResNet", any_size=True),
    "resnet34": Network(ResNet34Settings, "hpctrain.models.resnet:ResNet", any_size=True),
    "resnet50": Network(ResNetSettings, "hpctrain.models.resnet:ResNet", any_size=True),
    "resnet101": Network(ResNet101Settings, "hpctrain.models.resnet:ResNet", any_size=True),
    "resnet152": Network(ResNet152Settings, "hpctrain.models.resnet:ResNet", any_size=True),
}
