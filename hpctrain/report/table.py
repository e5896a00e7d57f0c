"""A table by columns, for terminals and pages: numbers stand to the right, with the same decimals in a column. Pure."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hpctrain.report.numbers import measured

UNKNOWN = "\u2013"
LONGEST = 40  # letters of a cell in a terminal


@dataclass(frozen=True)
class Column:
    """A head and its cells as text; `values` are the numbers behind them, to sort by, of a column of numbers."""

    head: str
    cells: Sequence[str]
    values: Sequence[float | None] | None = None


def texts(head: str, values: Sequence[Any]) -> Column:
    """Returns a column of anything: of numbers if all that is known are numbers, else of text."""
    known = [v for v in values if v is not None]
    if known and all(isinstance(v, int | float) and not isinstance(v, bool) for v in known):
        return Column(head, _exact(values), values)
    return Column(head, [UNKNOWN if v is None else str(v) for v in values])


def figures(head: str, values: Sequence[float | None], decimals: int | None = None) -> Column:
    """Returns a column of measured figures, all with the same decimals (None: four digits of the middle one)."""
    digits = places(values) if decimals is None else decimals
    return Column(head, [fixed(v, digits) for v in values], values)


def places(values: Sequence[float | None], halves: Sequence[float | None] = (), digits: int = 4) -> int:
    """Returns the decimals of a column: two digits of the middle one of the intervals' halves, one more if the smallest
    would vanish. Without intervals, `digits` digits of the middle value."""
    sizes = [abs(v) for v in values if v and math.isfinite(v)]
    known = [h for h in halves if h and math.isfinite(h)]
    if not sizes:
        return 0
    most = digits - 1 - _exponent(sizes)
    if known:
        for_middle = 1 - _exponent(known)
        most = min(max(for_middle, min(-_exponent([min(known)]), for_middle + 1)), most + 2)
    return max(0, most)


def _exponent(sizes: Sequence[float]) -> int:
    return math.floor(math.log10(statistics.median_low(sizes)))


def fixed(value: float | None, decimals: int, sign: str = "") -> str:
    """Returns a figure with these decimals; one that is too large for that in digits and an exponent. `sign` "+" shows
    that of positive ones too."""
    if value is None:
        return UNKNOWN
    return f"{value:{sign},.{decimals}f}" if abs(value) < 1e9 else f"{value:{sign}.4g}"


def lines(columns: Sequence[Column], width: int) -> list[str]:
    """Returns the table as lines of at most `width` letters, if its columns allow that.

    A table that is too wide becomes several, one below the other, which all begin with its first column.
    """
    blocks = list(_blocks([_padded(c) for c in columns], width))
    return list(itertools.chain.from_iterable([*block, ""] for block in blocks[:-1])) + blocks[-1]


def shortened(text: str, most: int) -> str:
    """Returns a text of at most `most` letters: what is in the middle of a longer one gives way to an ellipsis."""
    head = (most - 1) // 2
    return text if len(text) <= most else f"{text[:head]}\u2026{text[len(text) - (most - 1 - head) :]}"


def _blocks(columns: Sequence[Sequence[str]], width: int) -> Iterator[list[str]]:
    first, rest = columns[0], list(columns[1:])
    while True:
        block = [first]
        while rest and (len(block) == 1 or _wide(block) + 2 + _letters(rest[0][0]) <= width):
            block.append(rest.pop(0))
        yield ["  ".join(cells).rstrip() for cells in zip(*block, strict=True)]
        if not rest:
            return


def _wide(block: Sequence[Sequence[str]]) -> int:
    return sum(_letters(column[0]) for column in block) + 2 * (len(block) - 1)


def _padded(column: Column) -> list[str]:
    cells = [shortened(text, LONGEST) for text in (column.head, *column.cells)]
    widest = max(map(_letters, cells))
    gaps = [" " * (widest - _letters(cell)) for cell in cells]
    return [g + c if column.values is not None else c + g for c, g in zip(cells, gaps, strict=True)]


def _letters(text: str) -> int:
    """The columns of a terminal that a text takes: two per letter of some scripts."""
    from rich.cells import cell_len

    return cell_len(text)


def _exact(values: Sequence[float | None]) -> list[str]:
    """Returns numbers as they were given, to four digits: with the same decimals if that hides nothing."""
    cells = [UNKNOWN if v is None else measured(v) if isinstance(v, float) else f"{v}" for v in values]
    decimals = max(len(c.partition(".")[2]) for c in cells)
    if decimals > 4 or any("e" in c for c in cells) or all(isinstance(v, int | None) for v in values):
        return cells
    return [c if v is None else f"{v:,.{decimals}f}" for c, v in zip(cells, values, strict=True)]
