"""Makes the figures of docs/networks.md: `python docs/figures.py` writes docs/figures/*.png anew.

The networks are hpctrain's own, the numbers are computed by torch, the costs by hpctrain's counter. The photograph
comes with matplotlib (Rear Admiral Grace Hopper, James S. Davis, 1984, public domain).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import matplotlib.cbook
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle
from torch.nn import functional

from hpctrain import models
from hpctrain.models.settings_image import MLPSettings, PerceptronSettings
from hpctrain.report import palette
from hpctrain.report.numbers import short

HERE = Path(__file__).resolve().parent / "figures"

# The worked example: an 8x8 picture, and a filter that is not flipped.
IMAGE = torch.tensor(
    [
        [1, 0, 1, 0, 0, 1, 0, 1],
        [0, 1, 0, 0, 1, 0, 1, 0],
        [0, 0, 1, 0, 0, 1, 0, 1],
        [1, 0, 1, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 1, 0, 1, 0],
        [0, 0, 1, 0, 0, 1, 1, 1],
        [0, 0, 0, 0, 0, 0, 1, 0],
        [0, 0, 1, 0, 0, 1, 0, 1],
    ]
)
FILTER = torch.tensor([[-1, 0, 1], [-2, 1, 2], [-3, 0, 3]])

# Filters that keep vertical lines only: what is left of a pixel less what is right of it, so each sums to nothing.
VERTICAL = {"1x3": [[1, 0, -1]], "3x3": [[1, 0, -1]] * 3, "5x5": [[1, 0, 0, 0, -1]] * 5}
SENTENCE = ["the", "cat", "sees", "the", "dog"]


def convolved(stride: int = 1) -> torch.Tensor:
    """The worked example by torch's own convolution."""
    image, kernel = IMAGE[None, None].float(), FILTER[None, None].float()
    return functional.conv2d(image, kernel, stride=stride)[0, 0].int()


def photograph() -> torch.Tensor:
    """Brightness, 0 to 1, (rows, columns)."""
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        colours = imread(file, format="jpg").astype(np.float32) / 255
    return torch.from_numpy(colours @ np.array([0.299, 0.587, 0.114], np.float32))[40:360:2, 110:430:2]


def filtered(picture: torch.Tensor, kernel: list[list[int]]) -> torch.Tensor:
    weights = torch.tensor(kernel, dtype=torch.float32)
    return functional.conv2d(picture[None, None], weights[None, None] / weights.abs().sum())[0, 0]


def learn(model: torch.nn.Module, points: torch.Tensor, labels: torch.Tensor) -> torch.nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(300):
        optimizer.zero_grad()
        functional.cross_entropy(model(points.view(-1, 1, 1, 2)), labels).backward()
        optimizer.step()
    return model


def new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def perceptron() -> Figure:
    torch.manual_seed(0)
    figure = new_figure(11, 2.9)
    axes = figure.subplots(1, 4)
    x = torch.linspace(-3, 3, 121)
    functions = {"identity": lambda v: v, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "ReLU": torch.relu}
    for look, (name, function) in zip(palette.SERIES, functions.items(), strict=False):
        axes[0].plot(x, function(x), label=name, color=look.colour, ls=look.line)
    axes[0].set(title="activations", ylim=(-1.6, 2.6))
    axes[0].legend(fontsize=7)
    corners = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [1.0, -1.0]])
    points = (corners.repeat_interleave(40, 0) + 0.35 * torch.randn(160, 2)).clamp(-2, 2)
    quadrant = torch.arange(4).repeat_interleave(40)
    separable, crossed = (points.sum(1) > 0).long(), (quadrant < 2).long()
    line = PerceptronSettings((1, 1, 2), 2)
    hidden = MLPSettings((1, 1, 2), 2, (8,), "tanh")
    for axis, title, name, settings, labels in (
        (axes[1], "perceptron, separable", "perceptron", line, separable),
        (axes[2], "perceptron, not separable", "perceptron", line, crossed),
        (axes[3], "8 intermediate units", "mlp", hidden, crossed),
    ):
        model = learn(models.build(name, settings), points, labels)
        side = torch.linspace(-2.2, 2.2, 60)
        grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).view(-1, 1, 1, 2)
        with torch.no_grad():
            region = model(grid).argmax(1).view(60, 60)
            right = (model(points.view(-1, 1, 1, 2)).argmax(1) == labels).float().mean()
        axis.contourf(side, side, region, levels=1, colors=[palette.SKY, palette.ORANGE], alpha=0.35)
        for group, (colour, marker) in enumerate(((palette.BLUE, "o"), (palette.VERMILLION, "^"))):
            axis.scatter(*points[labels == group].T, color=colour, marker=marker, s=7)
        axis.set_title(f"{title}: {right:.0%} right", fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
    return figure


def convolution() -> Figure:
    figure = new_figure(11, 3.4)
    axes = figure.subplots(1, 4, width_ratios=(8, 3, 6, 3))
    panels = [
        ("image, 8x8", IMAGE), ("filter, 3x3", FILTER), ("stride 1: 6x6", convolved()), ("stride 2: 3x3", convolved(2))
    ]  # fmt: skip
    for axis, (title, values) in zip(axes, panels, strict=True):
        rows, columns = values.shape
        axis.imshow(values.numpy(), cmap="RdBu", vmin=-9, vmax=9)
        for i in range(rows):
            for j in range(columns):
                axis.text(j, i, int(values[i, j]), ha="center", va="center", fontsize=9)
        axis.set(title=title, xticks=[], yticks=[])
    axes[0].add_patch(Rectangle((-0.5, -0.5), 3, 3, fill=False, edgecolor=palette.VERMILLION, lw=2))
    for axis in axes[2:]:
        axis.add_patch(Rectangle((-0.5, -0.5), 1, 1, fill=False, edgecolor=palette.VERMILLION, lw=2))
    return figure


def filters() -> Figure:
    figure, picture = new_figure(10, 2.9), photograph()
    axes = figure.subplots(1, 1 + len(VERTICAL))
    axes[0].imshow(picture.numpy(), cmap="gray")
    axes[0].set_title("picture", fontsize=9)
    for axis, (name, kernel) in zip(axes[1:], VERTICAL.items(), strict=True):
        axis.imshow(filtered(picture, kernel).abs().numpy(), cmap="gray_r", vmax=0.2)
        axis.set_title(f"{name}: {kernel[0]}", fontsize=9)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    return figure


def pooling() -> Figure:
    lines = filtered(photograph(), VERTICAL["3x3"]).abs()[None, None]
    maps = {
        "feature map": lines,
        "max pooling 2x2": functional.max_pool2d(lines, 2),
        "mean pooling 2x2": functional.avg_pool2d(lines, 2),
        "max pooling, twice": functional.max_pool2d(functional.max_pool2d(lines, 2), 2),
    }
    figure = new_figure(10, 2.9)
    for axis, (name, values) in zip(figure.subplots(1, 4), maps.items(), strict=True):
        axis.imshow(values[0, 0].numpy(), cmap="gray_r", vmax=0.2)
        axis.set_title(f"{name}: {values.shape[2]}x{values.shape[3]}", fontsize=9)
        axis.set(xticks=[], yticks=[])
    return figure


def one_hot() -> Figure:
    dictionary = sorted(set(SENTENCE))
    matrix = functional.one_hot(torch.tensor([dictionary.index(word) for word in SENTENCE]), len(dictionary))
    figure = new_figure(3.6, 3)
    axis = figure.subplots()
    axis.imshow(matrix.numpy(), cmap="Blues", vmax=1.6)
    for i in range(len(SENTENCE)):
        for j in range(len(dictionary)):
            axis.text(j, i, int(matrix[i, j]), ha="center", va="center")
    axis.set_xticks(range(len(dictionary)), dictionary)
    axis.set_yticks(range(len(SENTENCE)), SENTENCE)
    axis.set_title(f"{len(SENTENCE)} words, a dictionary of {len(dictionary)}", fontsize=9)
    return figure


def unrolled() -> Figure:
    figure = new_figure(10, 2.8)
    for axis, title, both in zip(
        figure.subplots(1, 2), ("unrolled over 4 steps", "both directions"), (False, True), strict=True
    ):
        for t in range(4):
            for y, text in (
                (0, f"$x_{t + 1}$"),
                (1, "$h$"),
                *([(1.8, "$h'$")] if both else []),
                (2.8, f"$y_{t + 1}$"),
            ):
                axis.text(2 * t, y, text, ha="center", va="center", bbox={"boxstyle": "round", "fc": "white"})
            axis.annotate("", (2 * t, 0.75), (2 * t, 0.25), arrowprops={"arrowstyle": "->"})
            axis.annotate("", (2 * t, 2.55), (2 * t, 2.05 if both else 1.25), arrowprops={"arrowstyle": "->"})
            if both:  # the forward state is part of the output too
                bend = {"arrowstyle": "->", "connectionstyle": "arc3,rad=0.35"}
                axis.annotate("", (2 * t + 0.1, 2.55), (2 * t + 0.2, 1.2), arrowprops=bend)
            if t:
                axis.annotate(
                    "",
                    (2 * t - 0.3, 1),
                    (2 * t - 1.7, 1),
                    arrowprops={"arrowstyle": "->", "color": palette.VERMILLION},
                )
                axis.text(2 * t - 1, 1.1, "U", ha="center", color=palette.VERMILLION, fontsize=8)
                if both:
                    axis.annotate(
                        "",
                        (2 * t - 1.7, 1.8),
                        (2 * t - 0.3, 1.8),
                        arrowprops={"arrowstyle": "->", "color": palette.BLUE},
                    )
                    axis.text(2 * t - 1, 1.9, "U'", ha="center", color=palette.BLUE, fontsize=8)
        axis.set(xlim=(-0.8, 6.8), ylim=(-0.4, 3.2), title=title)
        axis.axis("off")
    return figure


def costs() -> Figure:
    told = subprocess.run(
        [sys.executable, "-m", "hpctrain.cli", "models", "--json"], capture_output=True, text=True, check=True
    )  # fmt: skip
    rows = json.loads(told.stdout)[::-1]
    figure = new_figure(8, 5)
    axis = figure.subplots()
    places = np.arange(len(rows))
    for offset, key, label, look in (
        (0.2, "params", "parameters", palette.SERIES[0]),
        (-0.2, "forward_macs", "multiply-adds, forward", palette.SERIES[1]),
    ):
        axis.barh(places + offset, [row[key] for row in rows], 0.4, label=label, color=look.colour, hatch=look.hatch,
                  edgecolor="white", lw=0.4)  # fmt: skip
    axis.set_yticks(
        places, [f"{row['model']}, one {row['unit'].split(' of ')[0]}" for row in rows], fontsize=8
    )
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(lambda value, _: short(value))
    axis.grid(axis="x", alpha=0.3)
    figure.suptitle("Every network at its default settings", fontsize=10)
    figure.legend(fontsize=8, loc="outside upper center", ncols=2)
    return figure


FIGURES = {f.__name__: f for f in (perceptron, convolution, filters, pooling, one_hot, unrolled, costs)}


def main() -> None:
    HERE.mkdir(exist_ok=True)
    for name, make in FIGURES.items():
        make().savefig(HERE / f"{name}.png", dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    main()
