"""Speed-up, intervals, laws and the finding, against exact laws and textbook values."""

import math
import random
import statistics

import pytest

from hpctrain.scaling.laws import (
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
