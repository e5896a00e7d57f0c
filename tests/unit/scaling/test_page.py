"""A scaling study's page and terminal text: a law is drawn if it says something, else a sentence says why not."""

import random

import pytest

from hpctrain.report import table as tables
from hpctrain.report.scaling_plots import LAW
from hpctrain.scaling import laws, page
from hpctrain.scaling.comm_settings import Effect
from hpctrain.scaling.laws import Point, Repeat, Value
from hpctrain.scaling.report import Figures, columns, law_line, shown, value_column, why_not_drawn

PLAN = {"mode": "strong", "experiment": "lenet on digits", "cluster": "c", "epochs": 1}


def figures(gpus, step_s, noise, repeats=3, mode="strong", seed=0, **more):
    generator = random.Random(seed)

    def one(p):
        s = step_s(p) * (1 + noise * generator.gauss(0, 1))
        return Repeat(
            s, (64 if mode == "strong" else 64 * p) / s, {"compute": 0.9 * s, "exposed": 0.1 * s, "data": 0.0}
        )

    points = [Point(p, 1, 64, tuple(one(p) for _ in range(repeats))) for p in gpus]
    rows = laws.rows(points)
    return Figures("own", points, rows, laws.fit(points, mode), [], laws.finding(rows, mode), None, **more)


def amdahl(serial):
    return lambda p: 0.5 * (serial + (1 - serial) / p)


CASES = [
    (figures([1, 2, 4, 8], amdahl(0.05), 0.01), None),
    (figures([2, 4, 8], amdahl(0.1), 0.005), None),
    (figures([1, 2, 4], amdahl(0.0), 0.05), "cannot be told from zero"),
    (figures([1, 2], amdahl(0.1), 0.01), "two GPU counts fit it always"),
    (figures([1, 2, 4], amdahl(0.1), 0.5, seed=1), "the repeats differ too much"),
    (figures([1, 2, 4], amdahl(-0.1), 0.001), "it does not fit, its serial fraction would be -"),
    (figures([1, 2, 4], lambda p: 0.5 / p**1.3, 0.001), "it does not fit, the points differ from it"),
    (figures([1, 2, 4, 8], lambda p: 0.5 * p / (0.05 + 0.95 * p), 0.002, mode="weak"), None),
    (
        figures([1, 2], lambda p: 0.5 + 0.02 * p, 0.002, 1, mode="weak"),
        "without repeats its serial fraction has no",
    ),
]


@pytest.mark.parametrize(("found", "reason"), CASES, ids=[str(reason) for _, reason in CASES])
def test_a_law_is_drawn_if_it_says_something(found, reason, monkeypatch):
    said = why_not_drawn(found.law, found.table)
    assert (said is None) == (reason is None)
    assert said is None or reason in said
    drawn = []
    monkeypatch.setattr(
        page.scaling_plots, "scaling", lambda title, rates, shares, base: drawn.append(rates) or b""
    )
    page.picture(found, "t")
    assert [series.name for series in drawn[0] if series.look is LAW] == (
        [] if reason else [f"{found.law.law}'s law"]
    )
    line = law_line(found.law, found.table)
    assert line.startswith(f"{found.law.law}'s law{' is not shown: ' if reason else ': serial fraction '}")
    assert line in page.text("s", PLAN, [found])
    if reason is None and found.law.law == "Amdahl":
        assert "speed-up at most" in line
    else:
        assert "at most" not in line


def test_a_drawn_law_begins_at_the_smallest_point(monkeypatch):
    """On two GPUs and more, the curve goes through the first throughput, and efficiency counts from it."""
    found = figures([2, 4, 8], amdahl(0.1), 0.002)
    seen = []
    monkeypatch.setattr(page.scaling_plots, "scaling", lambda *given: seen.append(given) or b"")
    page.picture(found, "t")
    _, rates, shares, base = seen[0]
    law = next(series for series in rates if series.look is LAW)
    assert law.y[0] == pytest.approx(base[1])
    assert law.y[-1] == pytest.approx(found.table[-1].samples_per_s.mean, rel=0.02)
    assert next(s for s in shares if s.look is LAW).y == pytest.approx([y / base[1] * 2 / p for y, p in zip(law.y, (2, 4, 8), strict=True)])  # fmt: skip # noqa: E501


def test_noise_alone_has_no_law():
    """Of 200 studies without any serial part, the law is drawn for few: those whose 95 % interval misses zero."""
    drawn = sum(
        why_not_drawn(found.law, found.table) is None
        for found in (figures([1, 2, 4, 8], amdahl(0.0), 0.03, seed=seed) for seed in range(200))
    )
    assert drawn <= 12  # 2.5 % of the studies are 5


def test_the_parts_are_explained_and_empty_ones_left_out():
    found = page.page("s", PLAN, [figures([1, 2, 4], amdahl(0.1), 0.01)])
    assert "exposed: communication that nothing hides" in found
    assert "data ms" not in found
    assert found.count("data:image/png;base64,") == 2


def test_columns_align():
    found = value_column("speed-up", [Value(1.0), Value(1.949, 0.0281), Value(11.16, 0.153), None])
    assert found.cells == [
        "  1.000        ".strip(" ") + " " * 8,
        "1.949 ± 0.028",
        "11.160 ± 0.153",
        "–" + " " * 8,
    ]
    assert found.values == [1.0, 1.949, 11.16, None]
    assert value_column("x", [Value(1.0), Value(2.5)]).cells == ["1.000", "2.500"]
    assert shown(Value(0.0278, 0.0026), 100) == "2.78 ± 0.26"
    assert shown(Value(1234.5)) == "1,234"


@pytest.mark.parametrize("width", [40, 60, 100])
def test_the_table_fits_a_narrow_terminal(width):
    effects = [
        Effect("compression", "fp16", 3, Value(0.09, 0.03), 0.111),
        Effect("cycle_time_ms", 5.0, 3, Value(-0.01)),
    ]
    found = figures([1, 2, 4], amdahl(0.1), 0.01, effects=effects)
    assert max(map(len, tables.lines(columns(found.table), width))) <= width
    said = page.text("s", PLAN, [found], width)
    assert "+9.0 ± 3.0" in said
    assert "+11.1" in said
