"""Why a plain recurrent network forgets and an LSTM does not: measured. The plots of docs/recurrent.md.

    python docs/recurrent_memory.py [--steps 500] [--out docs]

Sentences in which one word depends on another, up to d words away: "the woman ... [she]" (the clue comes
before) and "[she] ... the woman" (the clue comes after). For each d an RNN, a bidirectional RNN and an LSTM
of one size are trained on distances 1 ... d and tested at d - 3 ... d. Writes recurrent_memory.png and
recurrent_unrolled.png, and prints the figures. About three minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch.nn import functional as F

from hpctrain import models
from hpctrain.models.settings import SETTINGS
from hpctrain.report import palette
from hpctrain.report.canvas import tick_text

PEOPLE, FILLERS = 8, 16  # words that carry the clue, words that mean nothing here
GAP = 0  # the word to be found
VOCABULARY = 1 + PEOPLE + FILLERS
DISTANCES = (1, 2, 4, 7, 10, 15, 20, 30, 45, 60)
LONGEST = max(DISTANCES)
NETWORKS = {"rnn": "RNN", "birnn": "bidirectional RNN", "lstm": "LSTM"}
LOOKS = dict(zip(NETWORKS, palette.SERIES, strict=False))


def sentences(count: int, distance: int, clue_first: bool, generator: torch.Generator) -> torch.Tensor:
    """Words (count, distance + 1): a person, fillers, the gap; or the gap, fillers, a person."""
    words = torch.randint(1 + PEOPLE, VOCABULARY, (count, distance + 1), generator=generator)
    people = torch.randint(1, 1 + PEOPLE, (count,), generator=generator)
    words[:, 0 if clue_first else -1] = people
    words[:, -1 if clue_first else 0] = GAP
    return words


def split(words: torch.Tensor, clue_first: bool) -> tuple[int, torch.Tensor]:
    """Where the gap is, and which person belongs there (0 ... PEOPLE - 1)."""
    return (-1, words[:, 0] - 1) if clue_first else (0, words[:, -1] - 1)


def train(name: str, clue_first: bool, longest: int, steps: int) -> torch.nn.Module:
    torch.manual_seed(0)
    settings = SETTINGS[name](vocabulary_size=VOCABULARY, embedding=32, hidden=64, layers=1, init_range=None)
    model = models.build(name, settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        distance = int(torch.randint(1, longest + 1, (1,), generator=generator))
        words = sentences(64, distance, clue_first, generator)
        gap, people = split(words, clue_first)
        loss = F.cross_entropy(model(words)[0][:, gap, 1 : 1 + PEOPLE], people)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


@torch.no_grad()
def accuracy(model: torch.nn.Module, clue_first: bool, distance: int) -> float:
    """Over four distances: a network may remember, and yet answer well at every second distance only."""
    generator, right = torch.Generator().manual_seed(2), []
    for near in range(max(1, distance - 3), distance + 1):
        words = sentences(500, near, clue_first, generator)
        gap, people = split(words, clue_first)
        right.append(model(words)[0][:, gap, 1 : 1 + PEOPLE].argmax(1) == people)
    return float(torch.cat(right).float().mean())


def gradient_norms(model: torch.nn.Module) -> list[float]:
    """Mean norm of d loss / d word, for the words 0, 1, ..., LONGEST before the gap."""
    words = sentences(200, LONGEST, True, torch.Generator().manual_seed(3))
    gap, people = split(words, True)
    x = model.embedding(words).detach().requires_grad_()
    outputs, _ = model.rnn(x)
    F.cross_entropy(model.decoder(outputs[:, gap])[:, 1 : 1 + PEOPLE], people, reduction="sum").backward()
    return [float(n) for n in x.grad.norm(dim=2).mean(dim=0).flip(0)]


def measure(steps: int) -> tuple[dict, dict]:
    """Accuracy by (network, where the clue is), a value a distance; gradient norms by (network, steps)."""
    scores, norms = {}, {}
    for name in NETWORKS:
        norms[name, 0] = gradient_norms(train(name, True, 1, 0))
        for clue_first in (True, False):
            trained = {d: train(name, clue_first, d, steps) for d in DISTANCES}
            scores[name, clue_first] = [accuracy(trained[d], clue_first, d) for d in DISTANCES]
            if clue_first:
                norms[name, steps] = gradient_norms(trained[LONGEST])
    return scores, norms


def show(scores: dict, norms: dict, steps: int) -> None:
    print(f"accuracy by distance in words; chance is {1 / PEOPLE:.3f}")
    print(f"{'':32}" + "".join(f"{d:7}" for d in DISTANCES))
    for (name, clue_first), values in scores.items():
        where = "before" if clue_first else "after"
        print(f"{NETWORKS[name] + ', clue ' + where:32}" + "".join(f"{v:7.3f}" for v in values))
    print("norm of the gradient by distance in words")
    for (name, trained), values in norms.items():
        what = f"{NETWORKS[name]}, {'trained' if trained else 'untrained'}"
        print(f"{what:32}" + "".join(f" {values[d]:6.0e}" for d in DISTANCES))


def draw_memory(scores: dict, norms: dict, steps: int, path: Path) -> None:
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    before, after, gradient = figure.subplots(1, 3)
    for (name, clue_first), values in scores.items():
        axes = before if clue_first else after
        look = LOOKS[name]
        axes.plot(DISTANCES, values, marker=look.marker, ms=4, color=look.colour, label=NETWORKS[name])
    for axes, title in ((before, "the clue comes before"), (after, "the clue comes after")):
        axes.axhline(1 / PEOPLE, color=palette.GREY, ls=":", lw=1)
        axes.set(title=title, xlabel="distance, words", ylabel="accuracy", ylim=(0, 1.05))
        axes.legend()
    for (name, trained), values in norms.items():
        look = LOOKS[name]
        style = {"ls": "-", "label": NETWORKS[name]} if trained else {"ls": "--", "alpha": 0.6}
        gradient.semilogy(
            range(LONGEST + 1), values, color=look.colour, marker=look.marker, ms=4, markevery=10, **style
        )
    gradient.set(title="gradient (dashed: before training)", xlabel="words before the gap", ylabel="norm")
    gradient.yaxis.set_major_formatter(lambda value, _: tick_text(value))
    gradient.legend()
    figure.savefig(path, dpi=150)


def draw_unrolled(path: Path) -> None:
    figure = Figure(figsize=(9, 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set(xlim=(-1.2, 10), ylim=(-0.2, 3.6))
    axes.axis("off")

    def box(x: float, y: float, text: str, colour: str) -> None:
        patch = FancyBboxPatch((x - 0.55, y - 0.28), 1.1, 0.56, boxstyle="round,pad=0.05", fc=colour, ec="k")
        axes.add_patch(patch)
        axes.text(x, y, text, ha="center", va="center")

    def arrow(start: tuple, end: tuple, text: str = "", **style: object) -> None:
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, **style))
        axes.text((start[0] + end[0]) / 2 + 0.08, (start[1] + end[1]) / 2 + 0.08, text, fontsize=9)

    columns = (
        (0, "x", "h", "y"),
        *((3 + 2.2 * i, f"x{'₁₂₃'[i]}", f"h{'₁₂₃'[i]}", f"y{'₁₂₃'[i]}") for i in range(3)),
    )
    for x, below, state, above in columns:
        box(x, 0.3, below, "white")
        box(x, 1.7, state, "lightsteelblue")
        box(x, 3.1, above, "white")
        arrow((x, 0.64), (x, 1.36), "W")
        arrow((x, 2.04), (x, 2.76), "V")
    arrow((0.6, 1.55), (0.6, 1.85), connectionstyle="arc3,rad=2.2")
    axes.text(0.98, 1.62, "U", fontsize=9)
    axes.text(1.7, 1.6, "=", fontsize=20, ha="center")
    for x in (3, 5.2):
        arrow((x + 0.62, 1.7), (x + 1.58, 1.7), "U")
    arrow((8.02, 1.7), (8.9, 1.7), "U")
    arrow((7.3, 1.3), (3.1, 1.3), color=palette.VERMILLION, connectionstyle="arc3,rad=-0.15")
    axes.text(
        8.75, 0.9, "gradient: a factor\nUᵀ·diag(σ′) a step", color=palette.VERMILLION, fontsize=9, ha="center"
    )
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description="the plots of docs/recurrent.md")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    torch.set_num_threads(1)
    draw_unrolled(args.out / "recurrent_unrolled.png")
    scores, norms = measure(args.steps)
    show(scores, norms, args.steps)
    draw_memory(scores, norms, args.steps, args.out / "recurrent_memory.png")


if __name__ == "__main__":
    main()
