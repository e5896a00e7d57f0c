"""The prediction from made-up profiles whose answer is known, and from what a fit must find."""

import math
import random
from dataclasses import replace
from statistics import fmean, median, stdev

import pytest

from hpctrain.scaling import network, predict
from hpctrain.scaling.network import Exchange, Gradient, Link, Network, Shape, Work
from hpctrain.scaling.predict import (
    Calibration,
    LinkFit,
    Links,
    fit_link,
    fit_links,
    network_of,
    unit_costs,
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
    assert found.latency_s == pytest.approx(20e-6, rel=0.01)
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


@pytest.mark.parametrize("algorithm", [*network.ALGORITHMS, *network.CHOICES])
@pytest.mark.parametrize(("name", "on"), [("1x2", Shape(1, 2)), ("2x1", Shape(2, 1))])
@pytest.mark.parametrize("size", [16_384, 1_000_000, 50e6])
def test_two_ranks_take_by_the_model_what_they_took(algorithm, name, on, size):
    """The shortest sum, of 4 KiB, and the job's own size, whatever the algorithm that was fitted and then used."""
    measured = sums(20e-6, 1e-9)
    link = fit_link(measured, size, costs=unit_costs(name, algorithm))
    there = Network(Link(link.latency_s, link.s_per_byte), Link(link.latency_s, link.s_per_byte))
    for n in (4096, size):
        took_s = 2 * 20e-6 + n * 1e-9
        assert network.allreduce_s(there, on, n, algorithm) == pytest.approx(took_s, rel=0.02), n
    assert network.allreduce_s(there, on, 4096, algorithm) == pytest.approx(measured[0]["s"][0])


def test_the_messages_of_a_calibration_are_those_of_its_algorithm():
    assert (
        unit_costs("1x2", "ring") == unit_costs("2x1", "nccl") == unit_costs("2x1", "hierarchical") == (2, 1)
    )
    assert unit_costs("1x2", "mpi") == unit_costs("2x1", "recursive_doubling") == (1, 1)
    ring, doubling = (fit_links(calibration(algorithm=name), EXCHANGE).between for name in ("ring", "mpi"))
    assert doubling.latency_s == pytest.approx(2 * ring.latency_s)
    assert doubling.s_per_byte == pytest.approx(ring.s_per_byte)


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
    # Ranks differ by 0.2 in each of ten steps, √2 σ times 0.6745, less the mean excess of a median of ten.
    assert variation(Calibration(profiles)) == pytest.approx(0.2 / 2**0.5 / 0.67449 / 1.02579, rel=1e-4)


def weak(known, counts, **more):
    points = [(Shape(p // 2, 2) if p > 1 else Shape(1, 1), 64) for p in counts]
    return predict.predict(known, points, EXCHANGE, "ring", 64, **more)


def test_one_gpu_is_the_profile():
    one = weak(calibration(), [1])[0]
    assert one.step.total_s == pytest.approx(65 * MS)
    assert one.efficiency == pytest.approx(1)
    assert one.low_s is one.high_s is one.efficiency_low is one.efficiency_high is None


def test_a_step_by_hand():
    # One node, two ranks, a factor of 1.1: 70.4 + 1 ms; the last of two buckets is ready at the end:
    # 2α + 1 MB x 0.1 ns, when the first one is exchanged already.
    two = weak(calibration(), [2])[0]
    assert two.step.total_s == pytest.approx(71.4 * MS + 2 * 2e-6 + 1e6 * 1e-10, rel=1e-3)


def test_efficiency_falls_with_slower_links():
    fast, slow = (
        weak(calibration(link_gbit_per_s=10.0), [8], gbit_per_s=rate)[0].efficiency for rate in (10.0, 1.0)
    )
    assert slow < fast < 1


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


class TestMachine:
    """How ranks share a machine's cores."""

    @pytest.mark.parametrize(
        ("changes", "cores", "on", "ranks"),
        [
            ({}, 2, Shape(1, 4), 2.0),
            ({}, 2, Shape(1, 1), 1.0),
            ({}, 2, Shape(4, 3), 1.5),
            ({"nodes_per_host": 2}, 2, Shape(4, 3), 3.0),
            ({"nodes_per_host": 4}, 2, Shape(2, 3), 3.0),
            ({"device": "cuda"}, 2, Shape(1, 4), 1.0),
        ],
    )
    def test_ranks_per_core(self, changes, cores, on, ranks):
        given = dict(changes)
        one = profile(1, cores=cores, device=given.pop("device", "cpu"))
        assert Calibration({"1x1": one}, **given).load(on) == ranks

    @pytest.mark.parametrize(
        ("cpu_s", "cores", "busy"), [(32 * MS, 4, 0.5), (128 * MS, 4, 2.0), (128 * MS, 1, 1), (None, 4, 1.0)]
    )
    def test_the_cores_that_a_rank_keeps_busy(self, cpu_s, cores, busy):
        known = waiting(cpu_s, cores)
        if cpu_s is None:
            del known.profiles["1x1"]["computing"]["64"]["cpu_s"]
        assert known.busy() == pytest.approx(busy)
        assert known.busy("1x2") == 1.0

    @pytest.mark.parametrize(
        ("cpu_s", "ranks", "factor"),
        [(64 * MS, 2, 1.0), (64 * MS, 3, 1.5), (64 * MS, 4, 2.0), (32 * MS, 4, 1.5), (128 * MS, 4, 4.0)],
    )
    def test_ranks_that_want_more_cores_than_there_are_slow_down(self, cpu_s, ranks, factor):
        assert waiting(cpu_s).contention(ranks) == pytest.approx(factor)

    @pytest.mark.parametrize(
        ("cpu_s", "cores", "on", "share"),
        [
            (64 * MS, 3, Shape(1, 2), 0.5),
            (64 * MS, 4, Shape(1, 2), 0.0),
            (32 * MS, 2, Shape(1, 2), 0.25),
            (128 * MS, 2, Shape(1, 2), 1.0),
            (32 * MS, 1, Shape(1, 4), 0.5),
        ],
    )
    def test_an_exchange_takes_the_share_of_a_core_that_is_not_left(self, cpu_s, cores, on, share):
        assert waiting(cpu_s, cores).stolen(on) == pytest.approx(share)

    def test_on_gpus_an_exchange_takes_nothing(self):
        assert Calibration({"1x1": profile(1, cores=1, device="cuda")}).stolen(Shape(1, 4)) == 0.0


class TestLinks:
    TWO = [  # noqa: RUF012
        {"bytes": 4_000_000, "s": [9e-3, 8.02e-3, 1e-3]},
        {"bytes": 1000, "s": [2e-5]},
        {"bytes": 1_000_000, "s": [1.02e-3]},
    ]

    @pytest.mark.parametrize(
        ("size", "own_s", "around"),
        [
            # Half way in the logarithms: √(1.02 × 8.02) ms for 2 MB.
            (2e6, (1.02 * 8.02) ** 0.5 * 1e-3, (1, 2)),
            (4e6, 8.02e-3, (1, 2)),
            (1e9, 8.02e-3, (1, 2)),
            (1e6, 1.02e-3, (0, 1)),
            (1.0, 1.02e-3, (0, 1)),
        ],
    )
    def test_a_line_through_the_shortest_sum_and_the_own_size(self, size, own_s, around):
        found = fit_link(self.TWO, size)
        n = min(max(size, 1e6), 4e6)
        beta = (own_s - 2e-5) / (n - 1000)
        alpha = max(1e-7, (2e-5 - 1000 * beta) / 2)
        assert found.latency_s == pytest.approx(alpha)
        assert found.s_per_byte == pytest.approx((own_s - 2 * alpha) / n)
        times = [(1000, 2e-5), (1e6, 1.02e-3), (4e6, 8.02e-3)]
        off = [(times[k][1] - 2 * alpha) / times[k][0] / found.s_per_byte - 1 for k in around]
        assert found.error == pytest.approx((fmean([min(1, abs(o)) ** 2 for o in off])) ** 0.5)

    def test_half_a_cycle_is_waited_for_in_every_sum(self):
        later = [one | {"s": [t + 1e-5 for t in one["s"]]} for one in self.TWO]
        plain = fit_link(self.TWO, 1e6)
        found = fit_link(later, 1e6, cycle_s=2e-5)
        assert (found.latency_s, found.s_per_byte) == (
            pytest.approx(plain.latency_s), pytest.approx(plain.s_per_byte),
        )  # fmt: skip

    def test_a_link_takes_some_time_whatever_was_measured(self):
        flat = [{"bytes": n, "s": [1e-9]} for n in (1000, 1_000_000)]
        assert fit_link(flat, 1e6) == LinkFit(1e-7, 1e-13, 0.0)
        falling = [{"bytes": 1000, "s": [3e-5]}, {"bytes": 1_000_000, "s": [2e-5]}]
        assert fit_link(falling, 1e6) == LinkFit(1.5e-5, 1e-13, 0.0)

    def test_a_cluster_of_one_kind_of_link_has_that_everywhere(self):
        inside, between = (
            fit_links(calibration(), EXCHANGE).inside,
            fit_links(calibration(), EXCHANGE).between,
        )
        assert (inside.s_per_byte, between.s_per_byte) == (
            pytest.approx(1e-10, rel=0.01),
            pytest.approx(1e-9, rel=0.01),
        )
        for name, link in (("1x2", inside), ("2x1", between)):
            profiles = {key: value for key, value in calibration().profiles.items() if key in ("1x1", name)}
            assert fit_links(Calibration(profiles), EXCHANGE) == Links(link, link)
        nothing = LinkFit(0.0, 0.0, 0.0)
        assert fit_links(Calibration({"1x1": profile(1)}), EXCHANGE) == Links(nothing, nothing)

    def test_a_byte_s_time_is_taken_at_the_bucket_of_an_average_byte(self):
        bent = [s | {"s": [t * (2 if s["bytes"] > 2**20 else 1) for t in s["s"]]} for s in sums(1e-7, 1e-9)]
        profiles = {"1x1": profile(1), "1x2": profile(2, sweep=bent)}
        for one in profiles.values():
            one["gradients"] = [
                {"name": "g", "bytes": n, "ready_s": t} for t, n in enumerate((1e6, 1e6, 2e6))
            ]
        each = fit_links(Calibration(profiles), Exchange(cycle_s=0.0, bucket_bytes=1e6)).inside
        assert each == fit_link(bent, (1e12 + 1e12 + 4e12) / 4e6)
        whole = fit_links(Calibration(profiles), Exchange(cycle_s=0.0, bucket_bytes=1e9)).inside
        assert whole == fit_link(bent, (4e12 + 4e12) / 4e6)

    @pytest.mark.parametrize(
        ("exchange_s", "bytes_", "factor"),
        [(None, 1_000_000, 1.0), (2.0, 1_000_000, 2.0), (1e-3, 1_000_000, 0.1), (2.0, 7, 1.0)],
    )
    def test_the_exchange_of_these_gradients_counts_more_than_sums_of_one_buffer(
        self, exchange_s, bytes_, factor
    ):
        profiles = {"1x1": profile(1), "1x2": profile(2, sweep=sums(20e-6, 1e-9))}
        profiles["1x2"]["gradients"][0]["bytes"] = bytes_
        plain = fit_links(
            Calibration(profiles, cycle_s=1e-5, bucket_bytes=1e6), Exchange(cycle_s=0.0, bucket_bytes=1e6)
        )
        if exchange_s is not None:
            # Two buckets of 1 MB, which were waited for through half a cycle.
            took_s = 0.5e-5 + 2 * 2 * plain.inside.latency_s + exchange_s * 2e6 * plain.inside.s_per_byte
            profiles["1x2"]["exchange_s"] = [9.0, took_s, 0.0]
        known = Calibration(profiles, cycle_s=1e-5, bucket_bytes=1e6)
        found = fit_links(known, Exchange(cycle_s=0.0, bucket_bytes=1e6)).inside
        assert found.s_per_byte / plain.inside.s_per_byte == pytest.approx(factor)
        assert replace(found, s_per_byte=0.0) == replace(plain.inside, s_per_byte=0.0)

    LINKS = Links(LinkFit(2e-6, 1e-10, 0.1), LinkFit(2e-5, 1e-9, 0.1))

    @pytest.mark.parametrize(
        ("device", "known_gbit_per_s", "gbit_per_s", "inside", "between"),
        [
            ("cuda", None, None, Link(2e-6, 1e-10, 0.0), Link(2e-5, 1e-9, 0.0)),
            ("cuda", 10.0, 5.0, Link(2e-6, 1e-10, 0.0), Link(2e-5, 2e-9, 0.0)),
            ("cuda", None, 5.0, Link(2e-6, 1e-10, 0.0), Link(2e-5, 1e-9, 0.0)),
            ("cpu", None, None, Link(2e-6, 0.0, 1e-10), Link(2e-5, 1e-9, 0.0)),
            ("cpu", 16.0, None, Link(2e-6, 0.0, 1e-10),
             Link(2e-5, 0.5e-9 * predict.HEADERS, 1e-9 - 0.5e-9 * predict.HEADERS)),
            ("cpu", 1.0, 2.0, Link(2e-6, 0.0, 1e-10), Link(2e-5, 0.5e-9, 0.0)),  # no faster than was measured
        ],
    )  # fmt: skip
    def test_the_network_of_a_job(self, device, known_gbit_per_s, gbit_per_s, inside, between):
        known = Calibration({"1x1": profile(1, cores=2, device=device)}, link_gbit_per_s=known_gbit_per_s)
        found = network_of(known, self.LINKS, Shape(2, 1), gbit_per_s)
        assert (found.inside, found.load) == (inside, 1.0)
        for part in ("latency_s", "wire_s_per_byte", "host_s_per_byte"):
            assert getattr(found.between, part) == pytest.approx(getattr(between, part)), part

    def test_ranks_that_share_a_core_share_it_for_their_copies(self):
        known = Calibration({"1x1": profile(1, cores=1)})
        assert (
            network_of(known, self.LINKS, Shape(1, 6), None).load == 3.0
        )  # of the two that were measured together


class TestWork:
    def bent(self, factor=1.0):
        """A profile whose parts grow each in a way of its own."""
        one = profile(1)
        one["computing"] = {
            str(size): {
                "data_s": a * factor,
                "forward_s": b * factor,
                "backward_s": c * factor,
                "step_s": [[1.0] * 4],
            }
            for size, a, b, c in ((128, 9.0, 40.0, 80.0), (32, 1.0, 10.0, 20.0), (64, 3.0, 16.0, 40.0))
        }
        one["gradients"] = [
            {"name": "b", "bytes": 5, "ready_s": 10.0 * factor},
            {"name": "a", "bytes": 7, "ready_s": 50.0 * factor},
        ]
        one["optimizer_s"] = 2.0 * factor
        return one

    @pytest.mark.parametrize(
        ("batch", "data_s", "forward_s", "backward_s"),
        [
            (64, 3.0, 16.0, 40.0), (48, 2.0, 13.0, 30.0), (96, 6.0, 28.0, 60.0), (16, 0.0, 7.0, 10.0),
            (160, 12.0, 52.0, 100.0), (8, 0.0, 5.5, 5.0),
        ],
    )  # fmt: skip
    def test_each_part_follows_the_measured_batches(self, batch, data_s, forward_s, backward_s):
        gradients = (Gradient(backward_s / 4, 5), Gradient(backward_s, 7))
        expected = Work(data_s, forward_s, backward_s, 2.0, gradients)
        assert work_of(Calibration({"1x1": self.bent()}), Shape(1, 1), batch) == expected

    def test_one_measured_batch_is_scaled(self):
        one = self.bent()
        one["computing"] = {"64": one["computing"]["64"]}
        found = work_of(Calibration({"1x1": one}), Shape(1, 1), 16)
        assert (found.data_s, found.forward_s, found.backward_s) == (0.75, 4.0, 10.0)

    def test_neighbours_between_those_measured_are_interpolated(self):
        known = Calibration({"1x1": self.bent(), "1x4": self.bent(4.0), "2x1": self.bent(9.0)})
        expected = Work(6.0, 32.0, 80.0, 4.0, (Gradient(20.0, 5), Gradient(80.0, 7)))
        assert work_of(known, Shape(1, 2), 64) == expected
        assert work_of(known, Shape(1, 4), 64).forward_s == 64.0

    @pytest.mark.parametrize(("device", "forward_s"), [("cpu", 32.0), ("cuda", 16.0)])
    def test_more_neighbours_than_measured_take_turns_on_cores_alone(self, device, forward_s):
        one = self.bent() | {"device": device, "cores": 1}
        assert work_of(Calibration({"1x1": one}), Shape(1, 2), 64).forward_s == forward_s


def scattered(generator, ranks, steps, sigma):
    """A profile whose ranks' times scatter around those of their step; one step in ten is twice as slow on one rank."""
    one = profile(ranks)
    slow = [1.0 + (generator.random() < 0.1) for _ in range(steps)]
    times = [[generator.gauss(1, sigma) for _ in range(steps)] for _ in range(ranks)]
    times[0] = [t * s for t, s in zip(times[0], slow, strict=True)]
    one["computing"]["64"]["step_s"] = times
    return one


@pytest.mark.parametrize(("ranks", "steps"), [(2, 5), (2, 10), (2, 30), (4, 5), (4, 10), (8, 5), (8, 20)])
def test_the_scatter_of_ranks_is_found(ranks, steps):
    """Without bias at any number of ranks and steps; the median of sample deviations was up to a third too small."""
    generator = random.Random(ranks * steps)
    found = []
    for _ in range(1500):
        one = profile(ranks)
        one["computing"]["64"]["step_s"] = [
            [generator.gauss(1, 0.05) for _ in range(steps)] for _ in range(ranks)
        ]
        found.append(variation(Calibration({"1x1": profile(1), f"1x{ranks}": one})))
    assert fmean(found) == pytest.approx(0.05, rel=0.03)


def test_single_slow_steps_do_not_make_the_scatter():
    generator = random.Random(1)
    found = [variation(Calibration({"1x2": scattered(generator, 2, 20, 0.05)})) for _ in range(400)]
    assert 0.05 < fmean(found) < 0.065
    assert variation(Calibration({"1x1": profile(1)})) == 0.0


class TestPredictions:
    """On GPUs, with one link: a step of p ranks takes 65 ms and the exchange of its last bucket."""

    def known(self, factor=1.0):
        one = profile(1, factor, device="cuda")
        return Calibration({"1x1": one, "2x1": profile(2, sweep=sums(20e-6, 1e-8), device="cuda")})

    def predicted(self, known, on, **more):
        given = {"single_batch": 64} | more
        return predict.predict(known, [(on, 64)], EXCHANGE, "ring", **given)[0]

    def test_a_calibration_of_one_repeat_has_no_interval(self):
        found = self.predicted(self.known(), Shape(4, 1))
        link = fit_links(self.known(), EXCHANGE).between
        exchange_s = 2 * 3 * (link.latency_s + 1e6 / 4 * link.s_per_byte)
        total_s = 65 * MS + exchange_s
        assert (found.gpus, found.nodes, found.batch) == (4, 4, 256)
        assert found.step.total_s == pytest.approx(total_s)
        assert found.samples_per_s == pytest.approx(256 / total_s)
        assert found.efficiency == pytest.approx(65 * MS / total_s)
        assert found.low_s is found.high_s is found.efficiency_low is found.efficiency_high is None

    def test_efficiency_refers_to_the_batch_of_the_single_gpu(self):
        found = self.predicted(self.known(), Shape(1, 1), single_batch=32)
        assert found.efficiency == pytest.approx((64 / 65) / (32 / 33))

    def test_passes_before_the_last_exchange_nothing(self):
        once, twice = (self.predicted(self.known(), Shape(4, 1), accumulate=a) for a in (1, 3))
        assert twice.step.total_s == pytest.approx(once.step.total_s + 2 * 64 * MS)
        assert twice.batch == 3 * once.batch
        assert twice.efficiency == pytest.approx((3 * 64 + 1) * MS / twice.step.total_s)

    def test_the_interval_is_student_s_over_the_repeats(self):
        factors = (1.0, 1.1, 0.95)
        first, *others = (self.known(factor) for factor in factors)
        found = self.predicted(replace(first, repeats=tuple(others)), Shape(1, 1), single_batch=32)
        totals = [64 * MS * f + 1 * MS for f in factors]
        assert found.step.total_s == pytest.approx(fmean(totals))
        logarithms = [math.log(t) for t in totals]
        half = 4.30265 * stdev(logarithms) / 3**0.5
        assert math.log(found.low_s) == pytest.approx(fmean(logarithms) - half, abs=1e-6)
        assert math.log(found.high_s) == pytest.approx(fmean(logarithms) + half, abs=1e-6)
        shares = [2 * (32 * MS * f + 1 * MS) / t for f, t in zip(factors, totals, strict=True)]
        assert found.efficiency == pytest.approx(fmean(shares), rel=1e-3)
        assert found.efficiency_low < found.efficiency < found.efficiency_high


def calibrated(generator, repeats, between, within):
    """A calibration of two nodes, measured `repeats` times.

    Each job is slower or faster as a whole, on its nodes and on their link, by a factor of variation `between`; its
    steps and sums scatter by `within` besides.
    """

    def factor(spread):
        return math.exp(generator.gauss(0, spread))

    def job(ranks, sweep=()):
        one, own, wire = profile(ranks, 1.0, sweep, device="cuda"), factor(between), factor(between)
        for part in one["computing"].values():
            for name in ("data_s", "forward_s", "backward_s"):
                part[name] *= own * median(factor(within) for _ in range(10))
            part["step_s"] = [
                [t * own * (1 + generator.gauss(0, within)) for t in rank] for rank in part["step_s"]
            ]
        for gradient in one["gradients"]:
            gradient["ready_s"] *= own
        one["sums"] = [
            {"bytes": each["bytes"], "s": [t * wire * factor(within) for t in each["s"]]} for each in sweep
        ]
        return one

    links = sums(20e-6, 2e-8)
    first, *others = (Calibration({"1x1": job(1), "2x1": job(2, links)}) for _ in range(repeats))
    return replace(first, repeats=tuple(others))


def covered(repeats, between, within, tries, seed=0):
    """The shares of tries in which the interval of a step's time, and of its efficiency, holds the true one."""
    generator = random.Random(seed)
    points = [(Shape(8, 1), 64)]

    def forecast(known):
        (found,) = predict.predict(known, points, EXCHANGE, "ring", 64)
        return found

    true_known = calibrated(random.Random(0), 1, 0.0, 0.0)
    true = network.step(
        work_of(true_known, Shape(8, 1), 64),
        network_of(true_known, fit_links(true_known, EXCHANGE), Shape(8, 1), None),
        Shape(8, 1), EXCHANGE, "ring", network.Stragglers(within),
    ).total_s  # fmt: skip
    alone = work_of(true_known, Shape(1, 1), 64).total_s
    held = [0, 0]
    for _ in range(tries):
        found = forecast(calibrated(generator, repeats, between, within))
        held[0] += found.low_s <= true <= found.high_s
        held[1] += found.efficiency_low <= alone / true <= found.efficiency_high
    return [h / tries for h in held]


def test_the_interval_of_a_forecast_holds_the_truth():
    assert all(0.90 <= share <= 0.99 for share in covered(3, 0.03, 0.01, 150))


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("between", "within"), [(0.01, 0.003), (0.03, 0.01), (0.1, 0.03)])
@pytest.mark.parametrize("repeats", [2, 3, 5])
def test_the_intervals_of_forecasts_hold_the_truth_in_95_percent(repeats, between, within):
    assert all(0.93 <= share <= 0.97 for share in covered(repeats, between, within, 2000))
