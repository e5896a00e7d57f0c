"""The prediction from made-up profiles whose answer is known, and from what a fit must find."""

import pytest

from hpctrain.scaling import predict
from hpctrain.scaling.network import Exchange, Shape
from hpctrain.scaling.predict import (
    Calibration,
    fit_link,
    fit_links,
    network_of,
    variation,
    work_of,
)

MS = 1e-3
EXCHANGE = Exchange(cycle_s=0.0)


def sums(latency_s, s_per_byte, noise=0.0):
    """What two ranks would take: 2α + nβ."""
    sizes = [4096 * 4**k for k in range(8)]
    return [
        {"bytes": n, "s": [(2 * latency_s + n * s_per_byte) * (1 + sign * noise) for sign in (-1, 0, 1)]}
        for n in sizes
    ]


def profile(ranks, factor=1.0, sweep=(), cores=64, device="cpu", scatter=0.0):
    """A step of 1 ms per sample (1/4 data, 1/4 forward, 1/2 backward), two gradients of 1 MB."""
    batches = {
        str(b): {
            "data_s": 0.25 * MS * b * factor,
            "forward_s": 0.25 * MS * b * factor,
            "backward_s": 0.5 * MS * b * factor,
            "step_s": [[MS * b * factor * (1 + (-1) ** r * scatter)] * 10 for r in range(ranks)],
        }
        for b in (64, 32, 16)
    }
    gradients = [
        {"name": "b", "bytes": 1_000_000, "ready_s": 16 * MS * factor},
        {"name": "a", "bytes": 1_000_000, "ready_s": 32 * MS * factor},
    ]
    return {
        "ranks": ranks, "batch_size": 64, "device": device, "cores": cores, "gradients": gradients,
        "computing": batches, "optimizer_s": 1 * MS, "sums": list(sweep),
    }  # fmt: skip


def calibration(**changes):
    profiles = {
        "1x1": profile(1),
        "1x2": profile(2, 1.1, sums(2e-6, 1e-10)),
        "2x1": profile(2, 1.0, sums(20e-6, 1e-9)),
    }
    return Calibration(**({"profiles": profiles} | changes))


def test_a_fit_finds_latency_and_bandwidth():
    found = fit_link(sums(20e-6, 1e-9, noise=0.05), 8e6)
    assert 2 * found.latency_s == pytest.approx(2 * 20e-6 + 4096 * 1e-9, rel=1e-6)
    assert found.s_per_byte == pytest.approx(1e-9, rel=0.01)
    assert found.error < 0.02


def test_a_fit_is_where_the_messages_are_and_says_how_sure_it_is():
    # Twice as slow a byte above 1 MB: caches are left.
    bent = [s | {"s": [t * (2 if s["bytes"] > 2**20 else 1) for t in s["s"]]} for s in sums(1e-7, 1e-9)]
    assert fit_link(bent, 1e5).s_per_byte == pytest.approx(1e-9, rel=0.05)
    assert fit_link(bent, 4e7).s_per_byte == pytest.approx(2e-9, rel=0.02)
    between = fit_link(bent, 2 * 2**20)
    assert 1e-9 < between.s_per_byte < 2e-9
    assert between.error > 0.2


def test_sizes_beyond_what_was_measured():
    assert fit_link(sums(20e-6, 1e-9), 1.0).s_per_byte > 0
    assert fit_link(sums(20e-6, 1e-9), 1e12).s_per_byte == pytest.approx(1e-9, rel=0.01)


def test_waiting_for_a_cycle_is_not_the_links_latency():
    slow = [s | {"s": [t + 0.25e-3 for t in s["s"]]} for s in sums(20e-6, 1e-9)]
    quick = fit_link(sums(20e-6, 1e-9), 1e7)
    assert fit_link(slow, 1e7, cycle_s=0.5e-3).latency_s == pytest.approx(quick.latency_s)


def test_another_rate_changes_the_wire_alone():
    # Measured at 10 Gbit/s: 0.8 ns a byte of the wire's, headers besides; the rest of the 1 ns is the hosts'.
    known = calibration(link_gbit_per_s=10.0)
    links = fit_links(known, EXCHANGE)
    at = {rate: network_of(known, links, Shape(2, 1), rate).between for rate in (10.0, 1.0)}
    assert at[10.0].wire_s_per_byte == pytest.approx(0.8e-9 * predict.HEADERS)
    assert at[1.0].wire_s_per_byte == pytest.approx(8e-9 * predict.HEADERS)
    assert at[10.0].host_s_per_byte == at[1.0].host_s_per_byte == pytest.approx(0.164e-9, rel=0.1)


def test_work_follows_batch_and_neighbours():
    known = calibration()
    assert work_of(known, Shape(1, 1), 64).total_s == pytest.approx(65 * MS)
    assert work_of(known, Shape(1, 1), 48).total_s == pytest.approx(49 * MS)
    assert work_of(known, Shape(1, 1), 8).total_s == pytest.approx(9 * MS)
    assert work_of(known, Shape(4, 2), 64).total_s == pytest.approx((64 * 1.1 + 1) * MS)
    # Two nodes of one rank do not disturb each other, unless both are one machine.
    assert work_of(known, Shape(2, 1), 64).total_s == pytest.approx(65 * MS)
    assert work_of(calibration(nodes_per_host=2), Shape(2, 1), 64).total_s == pytest.approx(
        (64 * 1.1 + 1) * MS
    )


def test_ranks_that_outnumber_the_cores_take_turns():
    profiles = {"1x1": profile(1, cores=2), "1x2": profile(2, 1.0, sums(2e-6, 1e-10), cores=2)}
    known = Calibration(profiles)
    assert work_of(known, Shape(1, 4), 64).total_s == pytest.approx(2 * 65 * MS)


def test_scatter_is_that_of_the_ranks():
    profiles = {"1x1": profile(1), "1x2": profile(2, 1.0, sums(2e-6, 1e-10), scatter=0.1)}
    assert variation(Calibration(profiles)) == pytest.approx(0.1 * 2**0.5)


def weak(known, counts, **more):
    points = [(Shape(p // 2, 2) if p > 1 else Shape(1, 1), 64) for p in counts]
    return predict.predict(known, points, EXCHANGE, "ring", 64, draws=50, **more)


def test_one_gpu_is_the_profile():
    one = weak(calibration(), [1])[0]
    assert one.step.total_s == pytest.approx(65 * MS)
    assert one.efficiency == pytest.approx(1)
    assert one.low_s <= one.step.total_s <= one.high_s


def test_a_step_by_hand():
    # One node, two ranks, a factor of 1.1: 70.4 + 1 ms; the last of two buckets is ready at the end:
    # 2α + 1 MB x 0.1 ns, when the first one is exchanged already.
    two = weak(calibration(), [2])[0]
    assert two.step.total_s == pytest.approx(71.4 * MS + 2 * 2.2e-6 + 1e6 * 1e-10, rel=1e-3)


def test_efficiency_falls_with_slower_links():
    fast, slow = (
        weak(calibration(link_gbit_per_s=10.0), [8], gbit_per_s=rate)[0].efficiency for rate in (10.0, 1.0)
    )
    assert slow < fast < 1


def test_intervals_widen_with_what_is_not_known():
    known = calibration()
    steady = weak(known, [8])[0]
    profiles = dict(known.profiles)
    wild = profile(1)
    wild["computing"]["64"]["step_s"] = [[64 * MS * f for f in (0.8, 1.2) * 5]]
    unsure = weak(Calibration(profiles | {"1x1": wild}), [8])[0]
    assert unsure.high_s - unsure.low_s > 3 * (steady.high_s - steady.low_s)


def test_accumulation_spreads_the_exchange_over_more_samples():
    once, four = (weak(calibration(), [64], accumulate=a)[0] for a in (1, 4))
    assert four.efficiency > once.efficiency
    assert four.batch == 4 * once.batch


def waiting(cpu_s, cores=2):
    """A rank of 64 ms per step, of which `cpu_s` are a core's work."""
    one = profile(1, cores=cores)
    one["computing"]["64"]["cpu_s"] = cpu_s
    return Calibration({"1x1": one, "1x2": profile(2, 1.0, sums(2e-6, 1e-10), cores=cores)})


def test_ranks_that_wait_for_a_device_leave_their_cores_to_others():
    assert work_of(waiting(64 * MS), Shape(1, 4), 64).total_s == pytest.approx(2 * 65 * MS)
    # What is a core's work takes twice as long; a tenth of the step is.
    assert work_of(waiting(6.4 * MS), Shape(1, 4), 64).total_s == pytest.approx(1.1 * 65 * MS)


def test_an_exchange_takes_what_no_idle_core_gives():
    assert waiting(64 * MS).stolen(Shape(1, 1)) == 0  # one core computes, the other one sums
    assert waiting(64 * MS).stolen(Shape(1, 2)) == pytest.approx(1)
    assert waiting(6.4 * MS).stolen(Shape(1, 2)) == pytest.approx(0.01)
    assert waiting(64 * MS, cores=64).stolen(Shape(1, 4)) == 0
