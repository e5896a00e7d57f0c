"""The palette, as readers with a colour deficiency and a grey print see it."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from hpctrain.report import palette
from hpctrain.report.scaling_plots import LAW, MEASURED, PARTS, PREDICTED

# Machado, Oliveira, Fernandes, "A physiologically-based model for simulation of color vision deficiency", IEEE TVCG 15
# (2009), severity 1, on linear RGB.
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def linear(colour):
    srgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def lab(colour, deficiency):
    """CIE L*a*b* (D65) of a colour as seen with a deficiency."""
    seen = np.clip(DEFICIENCIES[deficiency] @ linear(colour), 0, 1)
    x, y, z = (
        np.cbrt(v) if v > (6 / 29) ** 3 else v * (29 / 6) ** 2 / 3 + 4 / 29
        for v in TO_XYZ @ seen / TO_XYZ.sum(1)
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def difference(a, b, deficiency):
    """CIE 1976: 2.3 is just noticeable beside each other."""
    return float(np.linalg.norm(lab(a, deficiency) - lab(b, deficiency)))


SETS = {
    "series": [look.colour for look in palette.SERIES],
    "parts": [look.colour for look in PARTS.values()],
    "scaling": [look.colour for look in (MEASURED, PREDICTED, LAW)] + [palette.GREY],
}


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize("name", SETS)
def test_every_two_colours_differ_well(name, deficiency):
    for a, b in itertools.combinations(SETS[name], 2):
        assert difference(a, b, deficiency) > 15, (a, b)


def test_the_measure_sees_what_is_not_safe():
    """A red and a green, and an orange beside a green, that most readers tell apart at once."""
    for a, b in (("#b04040", "#507830"), ("#00a000", "#a07000")):
        assert difference(a, b, "none") > 40
        assert difference(a, b, "deuteranopia") < difference(a, b, "none") / 3


def test_no_difference_is_left_to_colour_alone():
    """A grey print has markers, dashes and hatches."""
    assert len({look.marker for look in palette.SERIES}) == len(palette.SERIES)
    assert len({look.hatch for look in palette.SERIES}) == len(palette.SERIES)
    pairs = {(look.marker, look.line) for look in (MEASURED, PREDICTED, LAW)}
    assert len(pairs) == 3
    plain = [look.colour for look in PARTS.values() if not look.hatch]
    assert [abs(lab(a, "none")[0] - lab(b, "none")[0]) > 12 for a, b in itertools.combinations(plain, 2)] == [
        True
    ]
    hatched = [look.hatch for look in PARTS.values() if look.hatch]
    assert len(set(hatched)) == len(hatched)


def test_colours_come_from_here_alone():
    """No other file of the package or of docs/ names a colour of its own; the page's own style is html.py's."""
    root = Path(palette.__file__).parents[2]
    files = [*(root / "hpctrain").rglob("*.py"), *(root / "docs").glob("*.py")]
    named = re.compile(
        r"\"(tab:\w+|#[0-9a-fA-F]{6})\"|(?:color|colour|fc|ec)=\"(?!white|k\"|none|lightsteelblue)[a-z]+\""
    )
    found = {f.name for f in files if named.search(f.read_text())} - {"palette.py"}
    assert found == set()
