"""Numbers as text: prefixes, times, sizes."""

import pytest

from hpctrain.report.numbers import binary, exact, measured, seconds, short


@pytest.mark.parametrize(
    ("value", "unit", "digits", "text"),
    [
        (1234567, "", 4, "1.235 M"),
        (-2500, "B", 3, "-2.5 kB"),
        (999, "B", 3, "999 B"),
        (502_192, "B", 3, "502 kB"),
        (0, "FLOP/s", 4, "0 FLOP/s"),
        (2e18, "", 4, "2 E"),
        (1e18, "B", 4, "1 EB"),
        (1e15, "B", 4, "1 PB"),
        (1e12, "B", 4, "1 TB"),
        (1e9, "B", 4, "1 GB"),
        (1e6, "B", 4, "1 MB"),
        (1e3, "B", 4, "1 kB"),
        (0.5, "", 4, "0.5"),
    ],
)
def test_a_number_with_its_prefix(value, unit, digits, text):
    assert short(value, unit, digits) == text


def test_four_digits_are_shown_and_no_unit():
    assert (short(1234567), short(12.3456)) == ("1.235 M", "12.35")


def test_a_mean_shows_a_decimal_and_a_count_none():
    assert (exact(1234567), exact(1234.56)) == ("1,234,567", "1,234.6")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.5, "2.5 s"),
        (1, "1 s"),
        (0.0123, "12.3 ms"),
        (1e-3, "1 ms"),
        (4e-6, "4 µs"),
        (1e-6, "1 µs"),
        (2.4e-8, "24 ns"),
        (0, "0 ns"),
    ],
)
def test_a_time(value, text):
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (2**20, "1 MiB"),
        (2**28, "256 MiB"),
        (3 * 2**30, "3 GiB"),
        (5 * 2**40, "5 TiB"),
        (2**70, "1024 EiB"),
    ],
)
def test_a_size_in_powers_of_1024(count, text):
    assert binary(count) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.1235"), (9999.4, "9,999"), (9999.6, "10,000"), (12345.6, "12,346"), (-12345.6, "-12,346"),
        (123456789.0, "123,456,789"), (1e9, "1e+09"), (1.5e12, "1.5e+12"),
    ],
)  # fmt: skip
def test_a_measured_figure(value, text):
    assert measured(value) == text
