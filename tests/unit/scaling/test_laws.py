"""Speed-up, intervals, laws and the finding, against exact laws and textbook values."""

import math
import random
import statistics

import numpy as np
import pytest
from scipy import optimize, stats

from hpctrain.scaling.laws import (
    PARTS,
    Fit,
    Point,
    Repeat,
    Value,
    ask_for,
    finding,
    fit,
    karp_flatt,
    mean,
    ratio,
    rows,
)


def point(gpus, *step_s, batch=1024, **parts):
    repeats = tuple(Repeat(t, batch / t, {f"{k}": v for k, v in parts.items()}) for t in step_s)
    return Point(gpus, gpus, batch, repeats)


def amdahl_s(serial, p):
    return serial + (1 - serial) / p


def test_interval_is_students():
    # Student 1908's own example: ten patients, additional sleep, mean 1.58, s 1.23; t(9) = 2.262.
    sleep = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    found = mean(sleep)
    assert found.mean == pytest.approx(1.58)
    assert found.half == pytest.approx(2.262 * statistics.stdev(sleep) / math.sqrt(10), rel=1e-3)


def test_one_repeat_has_no_interval():
    assert mean([3.0]) == Value(3.0, None)
    assert ratio([2.0], [1.0, 1.0]).half is None


def test_intervals_hold_what_they_promise():
    # 95 % of the intervals of a ratio hold the true one (2.0), within the error of 2,000 trials.
    draw = random.Random(1)
    held = 0
    for _ in range(2000):
        found = ratio([draw.gauss(4, 0.2) for _ in range(4)], [draw.gauss(2, 0.1) for _ in range(4)])
        held += abs(found.mean - 2) <= found.half
    assert 0.93 <= held / 2000 <= 0.98


def test_the_interval_of_a_ratio_has_welchs_degrees_of_freedom():
    # Both means have a relative error of 1/10; two equal variances of two values have 2 degrees: t(2) = 4.303.
    found = ratio([90.0, 110.0], [45.0, 55.0])
    assert found.mean == pytest.approx(2)
    assert found.half == pytest.approx(4.3027 * 2 * math.sqrt(0.1**2 + 0.1**2), rel=1e-4)
    # Where one of them does not vary at all, only the other's degrees count.
    assert ratio([90.0, 110.0], [50.0] * 5).half == pytest.approx(12.7062 * 2 * 0.1, rel=1e-4)
    assert ratio([100.0] * 5, [45.0, 55.0]).half == pytest.approx(12.7062 * 2 * 0.1, rel=1e-4)


def test_laws_by_hand():
    amdahl, gustafson = Fit("Amdahl", Value(0.1, 0.02)), Fit("Gustafson", Value(0.1, 0.02))
    assert amdahl.speedup(10) == pytest.approx(10 / 1.9)
    assert amdahl.limit == pytest.approx(10)
    assert gustafson.speedup(10) == pytest.approx(9.1)
    assert gustafson.limit is None
    assert amdahl.limits == (pytest.approx(1 / 0.12), pytest.approx(1 / 0.08))
    assert gustafson.limits is None


@pytest.mark.parametrize(
    ("serial", "fits", "seen", "limits"),
    [
        (Value(0.1, 0.05), None, True, (1 / 0.15, 1 / 0.05)),
        (Value(0.1, 0.05), True, True, (1 / 0.15, 1 / 0.05)),
        (Value(0.1, 0.1), True, False, (5, math.inf)),
        (Value(0.02, 0.08), True, False, (10, math.inf)),
        (Value(-0.1, 0.05), True, False, None),
        (Value(0.1), None, False, None),
        (Value(0.1), False, False, None),
    ],
)
def test_a_limit_is_one_that_the_data_show(serial, fits, seen, limits):
    law = Fit("Amdahl", serial, fits)
    assert law.distinguishable is seen
    assert law.limit == (pytest.approx(10) if seen else None)
    assert law.limits == (None if limits is None else pytest.approx(limits))


def test_two_times_give_amdahls_fraction_without_an_interval():
    # 10 s on one, 6 s on two: 2 s are serial.
    law = fit([point(2, 6.0), point(1, 10.0)], "strong")
    assert law.serial.mean == pytest.approx(0.2)
    assert law.serial.half is None


def weak(gpus, *rates):
    return Point(gpus, 1, gpus, tuple(Repeat(1.0, rate, {}) for rate in rates))


def strong(gpus, *seconds):
    return point(gpus, *seconds)


AMDAHL = {1: [10.0, 10.3, 9.8], 2: [6.4, 6.1], 8: [3.1, 3.4, 3.0, 3.2]}
GUSTAFSON = {2: [100.0, 103.0], 4: [190.0, 180.0, 186.0], 16: [640.0, 700.0]}


@pytest.mark.parametrize(("mode", "make", "of"), [("strong", strong, AMDAHL), ("weak", weak, GUSTAFSON)])
def test_a_law_is_that_of_another_fit(mode, make, of):
    """scipy's least squares for s; its interval from how s moves with each count's mean."""
    least = min(of)

    def serial(groups):
        y = np.concatenate([np.log(values) for values in groups.values()])
        counts = np.repeat(list(groups), [len(values) for values in groups.values()])
        work = 1 / counts if mode == "strong" else counts / least
        found = optimize.least_squares(
            lambda v: y - v[0] - np.log(v[1] + (1 - v[1]) * work), [y.mean(), 0.1], xtol=1e-15, ftol=1e-15
        )
        return found.x[1]

    law = fit([make(p, *values) for p, values in of.items()], mode)
    assert law.serial.mean == pytest.approx(serial(of), abs=1e-6)
    parts = []
    for p, values in of.items():
        up, down = ({**of, p: [v * factor for v in values]} for factor in (1.0001, 1 / 1.0001))
        slope = (serial(up) - serial(down)) / 2e-4
        parts.append((slope**2 * statistics.variance(np.log(values)) / len(values), len(values) - 1))
    variance = sum(v for v, _ in parts)
    freedom = variance**2 / sum(v**2 / f for v, f in parts)
    assert law.serial.half == pytest.approx(stats.t.ppf(0.975, freedom) * math.sqrt(variance), rel=1e-2)


def test_a_law_that_points_contradict_is_rejected():
    law = fit(
        [point(1, 1.0, 1.01), point(2, 0.5, 0.505), point(4, 0.25, 0.252), point(8, 0.3, 0.303)], "strong"
    )
    assert law.fits is False
    assert law.serial.half is None
    assert not law.distinguishable
    near = fit([point(p, amdahl_s(0.1, p), 1.01 * amdahl_s(0.1, p)) for p in (1, 2, 4, 8)], "strong")
    assert near.fits is True
    assert near.distinguishable


def test_what_shows_no_misfit_does_not_say_so():
    assert fit([point(1, 1.0, 1.1), point(2, 0.6, 0.7)], "strong").fits is None  # two counts have no third
    assert fit([point(1, 1.0), point(2, 0.6), point(4, 0.6)], "strong").fits is None
    assert fit([point(1, 1.0, 1.0), point(2, 0.6, 0.6), point(4, 0.6, 0.6)], "strong").fits is None


def test_a_single_repeat_of_a_count_leaves_no_interval():
    law = fit([point(1, 1.0, 1.1), point(2, 0.6, 0.7), point(4, 0.4)], "strong")
    assert law.serial.half is None
    assert not law.distinguishable


def simulated(generator, mode, serial, counts, repeats, scatter, growing):
    """A study of the law, with runs that differ by a factor; its variation may be three times as large in the end."""
    points = []
    for place, p in enumerate(counts):
        sigma = scatter * (1 + growing * place / (len(counts) - 1))
        factors = np.exp(generator.normal(0, sigma, repeats))
        if mode == "strong":
            points.append(point(p, *(amdahl_s(serial, p) * factors)))
        else:
            points.append(weak(p, *(100 * (serial + (1 - serial) * p / counts[0]) * factors)))
    return points


def law_covered(mode, serial, counts, repeats, scatter, growing, tries):
    """The shares of studies of a true law that are rejected, and whose interval, of those not, holds the fraction."""
    generator = np.random.default_rng([len(counts), repeats, int(100 * serial), int(1000 * scatter), growing])
    laws = [
        fit(simulated(generator, mode, serial, counts, repeats, scatter, growing), mode) for _ in range(tries)
    ]
    kept = [law for law in laws if law.fits is not False]
    held = [law.serial.low <= serial <= law.serial.high for law in kept]
    return 1 - len(kept) / tries, statistics.fmean(held)


@pytest.mark.parametrize("mode", ["strong", "weak"])
def test_the_interval_of_a_law_holds_its_fraction(mode):
    rejected, held = law_covered(mode, 0.02, (1, 2, 4, 8), 3, 0.03, 0, 400)
    assert rejected < 0.03
    assert 0.92 < held < 0.99


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("growing", [0, 2])
@pytest.mark.parametrize("scatter", [0.01, 0.05])
@pytest.mark.parametrize("repeats", [2, 3, 5])
@pytest.mark.parametrize("counts", [(1, 64), (1, 2, 4), (1, 2, 4, 8, 16, 32)])
@pytest.mark.parametrize("serial", [0.0, 0.02, 0.2])
@pytest.mark.parametrize("mode", ["strong", "weak"])
def test_the_intervals_of_laws_hold_their_fractions(mode, serial, counts, repeats, scatter, growing):
    """93 to 97 %, and up to 98 % with two repeats, within two standard errors of 2,000 studies."""
    rejected, held = law_covered(mode, serial, counts, repeats, scatter, growing, 2000)
    assert rejected < 0.05
    assert 0.93 - 0.011 <= held <= (0.98 if repeats == 2 else 0.97) + 0.008


def ratio_covered(repeats, scatters, tries):
    """The share of studies whose interval of a ratio holds the true one, and that of Karp and Flatt's fraction."""
    generator = np.random.default_rng(repeats)
    held = [0, 0]
    for _ in range(tries):
        base, more = (np.exp(generator.normal(0, s, repeats)) for s in scatters)
        gain = ratio(list(5 * more), list(base))
        held[0] += gain.low <= 5 * math.exp((scatters[1] ** 2 - scatters[0] ** 2) / 2) <= gain.high
        lost = karp_flatt(gain, 8)
        held[1] += lost.low <= (1 / 5 - 1 / 8) / (1 - 1 / 8) <= lost.high
    return [h / tries for h in held]


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("scatters", [(0.01, 0.01), (0.1, 0.1), (0.02, 0.06), (0.06, 0.02)])
@pytest.mark.parametrize("repeats", [2, 3, 5, 10])
def test_the_intervals_of_speed_ups_hold_the_true_ones(repeats, scatters):
    assert all(
        0.93 <= held <= (0.98 if repeats == 2 else 0.97) for held in ratio_covered(repeats, scatters, 4000)
    )


@pytest.mark.parametrize("serial", [0.0, 0.02, 0.3])
def test_amdahls_fraction_is_found(serial):
    points = [point(p, amdahl_s(serial, p), amdahl_s(serial, p)) for p in (1, 2, 4, 16)]
    law = fit(points, "strong")
    assert law.law == "Amdahl"
    assert law.serial.mean == pytest.approx(serial, abs=1e-12)
    assert law.serial.half == pytest.approx(0, abs=1e-9)
    for row in rows(points):
        assert row.speedup.mean == pytest.approx(1 / amdahl_s(serial, row.gpus))
        if row.karp_flatt:  # constant if the loss is serial work alone (Karp and Flatt 1990)
            assert row.karp_flatt.mean == pytest.approx(serial, abs=1e-12)


def test_gustafsons_example():
    # Gustafson 1988: 1,024 processors, serial fraction 0.004 of the parallel run: scaled speed-up 1,020.
    points = [point(1, 1.0), point(1024, 1.0 * 1024 / (1024 - 0.004 * 1023), batch=1024 * 1024)]
    law = fit(points, "weak")
    assert law.serial.mean == pytest.approx(0.004)
    assert law.speedup(1024) == pytest.approx(1020, abs=0.5)
    assert rows(points)[1].speedup.mean == pytest.approx(1019.9, abs=0.05)


def test_karp_flatt_by_hand():
    # (1/4 - 1/8) / (1 - 1/8) = 1/7; its slope there is 1/S^2 / (1 - 1/p).
    found = karp_flatt(Value(4, 0.1), 8)
    assert found.mean == pytest.approx(1 / 7)
    assert found.half == pytest.approx(0.1 / 16 / (7 / 8))


def test_karp_flatt_grows_with_overhead():
    points = [point(p, 1 / p + 0.01 * math.log2(p)) for p in (1, 2, 4, 8)]
    found = [r.karp_flatt.mean for r in rows(points)[1:]]
    assert found == sorted(found)
    assert found[0] < found[-1]


def test_a_base_of_several_gpus_counts_from_there():
    table = rows([point(8, 1.0), point(16, 0.5)])
    assert [r.speedup.mean for r in table] == [8, 16]
    assert [r.efficiency.mean for r in table] == [1, 1]
    assert table[1].karp_flatt.mean == pytest.approx(0)


def test_points_without_results_are_left_out():
    assert [r.gpus for r in rows([point(1, 1.0), Point(2, 1, 8, (), ("g2-r1: failed",)), point(4, 0.3)])] == [
        1,
        4,
    ]
    assert fit([point(1, 1.0)], "strong") is None


def test_a_row_is_the_mean_of_its_repeats():
    def repeat(step_s, hidden_s, sample_j, **parts):
        return Repeat(step_s, 64 / step_s, parts, hidden_s, 200 * step_s, step_s / 8, sample_j, "GPU")

    one = Point(1, 1, 64, (repeat(2.0, None, 3.0), repeat(2.0, None, 5.0)))
    two = Point(
        4, 2, 256, (repeat(1.0, 0.1, 2.0, compute=0.8, data=0.2), repeat(1.0, 0.3, None, compute=0.6))
    )
    base, row = rows([two, one])
    assert (row.gpus, row.nodes, row.batch, row.repeats) == (4, 2, 256, 2)
    assert (row.samples_per_s, row.step_s) == (Value(64.0, 0.0), Value(1.0, 0.0))
    assert row.parts_s == pytest.approx({"data": 0.1, "compute": 0.7})
    assert (row.hidden_s, row.gflop_per_s, row.mfu) == (pytest.approx(0.2), 200, 0.125)
    assert (base.hidden_s, base.parts_s, base.node_hours) == (None, {}, None)
    # The base is 1 without an interval; joules are only given if every repeat has them.
    assert (base.speedup, base.efficiency, base.karp_flatt) == (Value(1.0), Value(1.0), None)
    assert (base.sample_j.mean, base.energy) == (4, "GPU")
    assert row.sample_j is None


def test_an_efficiency_has_the_interval_of_its_speedup():
    row = rows([point(2, 1.0, 1.0), point(8, 0.45, 0.55)])[1]
    gain = ratio([1024 / 0.45, 1024 / 0.55], [1024, 1024])
    assert (row.speedup.mean, row.speedup.half) == pytest.approx((2 * gain.mean, 2 * gain.half))
    assert (row.efficiency.mean, row.efficiency.half) == pytest.approx((gain.mean / 4, gain.half / 4))
    assert (row.efficiency.low, row.efficiency.high) == pytest.approx(
        ((gain.mean - gain.half) / 4, (gain.mean + gain.half) / 4)
    )


def test_node_hours_of_a_target():
    # 1,024 samples per second on 2 nodes: 3,686,400 samples take an hour.
    assert rows([point(2, 1.0)], 3_686_400)[0].node_hours == pytest.approx(2)


def test_gpus_worth_asking_for_end_at_the_first_gap():
    assert ask_for([(1, 1.0), (2, 0.9), (4, 0.69), (8, 0.71)]) == 2
    assert ask_for([(1, 0.5)]) is None


def test_the_finding_says_how_far_why_and_how_many():
    table = rows(
        [
            point(1, 1.0, 1.0, compute=1.0, exposed=0.0),
            point(2, 0.55, 0.55, compute=0.5, exposed=0.05),
            point(4, 0.5, 0.5, compute=0.25, exposed=0.25),
        ]
    )
    said = " ".join(finding(table, "strong"))
    assert "2 ± 0 times as fast as on one" in said
    assert "mostly communication that nothing hides: 250 ms" in said
    assert "Ask for 2 GPUs" in said


def test_the_finding_says_where_more_gpus_are_slower():
    table = rows([point(1, 1.0), point(2, 0.6), point(4, 0.7)])
    assert "fastest on 2 GPUs; more make it slower" in " ".join(finding(table, "strong"))


def test_the_finding_goes_on_with_the_model():
    table = rows([point(1, 1.0), point(2, 0.51)])
    assert "the model says up to 64" in " ".join(finding(table, "strong", [(2, 0.98), (64, 0.7), (128, 0.6)]))


def test_nothing_to_say_without_two_points():
    assert finding([], "strong") == ["No point has a result yet."]
    assert "second point" in finding(rows([point(4, 1.0)]), "weak")[0]


def test_noise_is_no_finding():
    table = rows([point(1, 1.0, 0.3), point(2, 0.6, 0.2)])
    said = " ".join(finding(table, "strong"))
    assert "differ too much" in said
    assert "Ask for" not in said


def test_more_than_ideal_is_said():
    table = rows([point(1, 1.0, 1.0), point(2, 0.4, 0.4)])
    assert "more than ideal" in " ".join(finding(table, "strong"))


def test_the_first_sentence_says_what_was_kept_and_compared():
    alone = finding(rows([point(1, 1.0), point(2, 0.625)]), "strong")[0]
    assert "With the effective batch fixed" in alone
    assert "1.6 times as fast as on one: efficiency 80 %." in alone
    several = finding(rows([point(2, 1.0, 1.0), point(4, 0.625, 0.625)]), "weak")[0]
    assert "With the batch per GPU fixed" in several
    assert "3.2 ± 0 times as fast as on one of the first 2: efficiency 80 ± 0 %." in several


def test_what_is_lost_is_beyond_the_ideal_share():
    base, last = point(1, 1.0, compute=0.8, data=0.2), point(2, 0.9, compute=0.5, exposed=0.3)
    # Strong: half of 0.8 s is ideal, so computing loses 0.1 s of 0.4 s; weak: 0.8 s is ideal for it, nothing is lost.
    assert f"{PARTS['exposed']}: 300 ms per step beyond the ideal, 75% of the loss" in said_of(
        [base, last], "strong"
    )
    assert f"{PARTS['exposed']}: 300 ms per step beyond the ideal, 100% of the loss" in said_of(
        [base, last], "weak"
    )
    more = point(2, 0.9, compute=0.8, data=0.3)
    assert f"{PARTS['compute']}: 400 ms per step beyond the ideal, 67% of the loss" in said_of(
        [base, more], "strong"
    )
    assert f"{PARTS['data']}: 100 ms per step beyond the ideal, 100% of the loss" in said_of(
        [base, more], "weak"
    )


def said_of(points, mode):
    return " ".join(finding(rows(points), mode))


def test_parts_that_lose_nothing_explain_nothing():
    assert "The step's parts do not explain" in said_of([point(1, 1.0), point(2, 0.9)], "strong")


def test_a_doubtful_point_is_worth_repeating():
    base = point(1, 1.0, 1.0)
    doubtful = said_of([base, point(2, 0.735, 0.745), point(4, 0.5, 0.5)], "strong")
    # 1/1.48 = 0.676; the standard error is 0.0046 of it, times t(1) = 12.7: half a width of 0.058.
    assert "Ask for 1 GPUs: beyond that efficiency falls below 70%" in doubtful
    assert "(on 2 the interval reaches 73%" in doubtful
    sure = said_of([base, point(2, 0.8, 0.8)], "strong")
    assert "Ask for 1 GPUs: beyond that efficiency falls below 70%." in sure


def test_the_model_is_asked_only_beyond_what_was_measured():
    table = rows([point(1, 1.0), point(2, 0.51)])
    for predicted in ([], [(2, 0.98)], [(1, 1.0)], [(2, 0.5)]):
        assert finding(table, "strong", predicted)[-1].endswith("(efficiency ≥ 70%).")


def test_no_advice_where_even_the_first_is_not_worth_it():
    assert not any("Ask for" in line for line in finding(rows([point(1, 1.0), point(2, 0.5)])[1:], "strong"))
