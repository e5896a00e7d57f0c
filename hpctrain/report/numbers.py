"""Numbers as readable text: metric prefixes, exact counts, times, sizes in bytes. Pure."""

from __future__ import annotations

PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def short(value: float, unit: str = "", digits: int = 4) -> str:
    """Returns a number with a metric prefix: 1234567 -> 1.235 M."""
    for size, prefix in PREFIXES:
        if abs(value) >= size:
            return f"{value / size:.{digits}g} {prefix}{unit}".rstrip()
    return f"{value:,.{digits}g} {unit}".rstrip()


def measured(value: float) -> str:
    """Returns a number with four significant digits, but with all its integer digits below 10⁹: 12345.6 -> 12,346."""
    return f"{value:,.0f}" if 9999.5 <= abs(value) < 1e9 else f"{value:,.4g}"


def exact(value: float) -> str:
    """Returns an integer in full, and a float, such as an average over units, with one decimal."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def seconds(value: float) -> str:
    """Returns a time as text in s, ms, µs or ns."""
    for size, name in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= size:
            return f"{value / size:.3g} {name}"
    return f"{value / 1e-9:.3g} ns"


def binary(count: int) -> str:
    """Returns a size in bytes in units of powers of 1024, rounded down: 2**28 -> 256 MiB."""
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
    power = min(max(0, count.bit_length() - 1) // 10, len(units) - 1)
    return f"{count >> 10 * power} {units[power]}"
