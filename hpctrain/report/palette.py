"""The colours, markers and hatches of every figure: the one owner. Pure.

The colours are those of Okabe and Ito (2008, "Color universal design"; B. Wong, Nature Methods 8, 441, 2011), which
readers with a colour deficiency can tell apart. A figure never leaves a difference to colour alone: lines have markers
and dashes too, areas have hatches, so that a print in grey says the same.
"""

from __future__ import annotations

from dataclasses import dataclass

BLACK, GREY = "#000000", "#8a949e"
BLUE, VERMILLION, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
ORANGE, SKY = "#e69f00", "#56b4e9"

BEST = VERMILLION  # what a figure wants to be seen first
SCORES = "viridis"  # matplotlib's map for scores: uniform, and safe for colour-blind readers


@dataclass(frozen=True)
class Look:
    """How one series of a figure is drawn, in matplotlib's words."""

    colour: str
    marker: str
    line: str
    hatch: str


# Neighbours differ most in lightness too.
SERIES = (
    Look(BLUE, "o", "-", ""),
    Look(ORANGE, "s", "--", "///"),
    Look(GREEN, "^", "-.", "..."),
    Look(PINK, "D", ":", "\\\\\\"),
    Look(VERMILLION, "v", "--", "xxx"),
    Look(SKY, "P", "-.", "---"),
)
