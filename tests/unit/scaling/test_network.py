"""The cost model against closed forms of the literature, and the overlap against cases worked by hand."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.scaling.network import (
    ALGORITHMS,
    Exchange,
    Gradient,
    Link,
    Network,
    Shape,
    Step,
    Stragglers,
    Work,
    _host_share,
    allreduce_s,
    bucketed,
    overlap,
    step,
)
from tests import allreduce_events

ALPHA, BETA, GAMMA = 5e-6, 1e-9, 2e-10
FLAT = Network(Link(ALPHA, BETA), Link(ALPHA, BETA), GAMMA)
RANKS = [2, 4, 8, 64, 1024]
N = 25e6


@pytest.mark.parametrize("p", RANKS)
class TestClosedForms:
    """One rank per node, equal links: the textbook's formulas."""

    def test_ring(self, p):  # Thakur et al. 2005, section 4.4 (reduce-scatter and allgather by a ring)
        expected = 2 * (p - 1) * ALPHA + 2 * (p - 1) / p * N * BETA + (p - 1) / p * N * GAMMA
        assert allreduce_s(FLAT, Shape(p, 1), N, "ring") == pytest.approx(expected, rel=1e-12)

    def test_recursive_doubling(self, p):  # Thakur et al. 2005, section 4.5
        expected = math.log2(p) * (ALPHA + N * BETA + N * GAMMA)
        assert allreduce_s(FLAT, Shape(p, 1), N, "recursive_doubling") == pytest.approx(expected, rel=1e-12)

    def test_rabenseifner(self, p):  # Thakur et al. 2005, section 4.5
        expected = 2 * math.log2(p) * ALPHA + 2 * (p - 1) / p * N * BETA + (p - 1) / p * N * GAMMA
        assert allreduce_s(FLAT, Shape(p, 1), N, "halving") == pytest.approx(expected, rel=1e-12)

    def test_double_tree(self, p):  # Sanders, Speck, Träff 2009: full bandwidth, logarithmic depth
        expected = 2 * math.log2(p) * ALPHA + 2 * N * BETA + N * GAMMA
        assert allreduce_s(FLAT, Shape(p, 1), N, "double_tree") == pytest.approx(expected, rel=1e-12)

    def test_no_algorithm_beats_the_lower_bound(self, p):  # Chan et al. 2007, table 1
        bound = max(math.log2(p) * ALPHA, 2 * (p - 1) / p * N * BETA)
        assert all(cost(FLAT, Shape(p, 1), N) >= bound for cost in ALGORITHMS.values())


def test_one_rank_needs_no_network():
    assert all(cost(FLAT, Shape(1, 1), N) == 0 for cost in ALGORITHMS.values())


def test_hierarchy_with_one_rank_a_node_is_a_ring():
    assert ALGORITHMS["hierarchical"](FLAT, Shape(16, 1), N) == pytest.approx(
        ALGORITHMS["ring"](FLAT, Shape(16, 1), N), rel=1e-12
    )


def test_hierarchy_moves_a_ranks_share_between_nodes():
    # Inside: 2(m-1)/m n; between: m rings of n/m share the wire, 2(N-1)/N n.
    slow = Network(Link(0, 1e-10), Link(0, 1e-9))
    expected = 2 * 3 / 4 * N * 1e-10 + 2 * 7 / 8 * N * 1e-9
    assert ALGORITHMS["hierarchical"](slow, Shape(8, 4), N) == pytest.approx(expected, rel=1e-12)


def test_a_flat_ring_of_many_nodes_is_as_slow_as_the_wire():
    slow = Network(Link(0, 1e-11), Link(0, 1e-9))
    assert allreduce_s(slow, Shape(8, 4), N, "ring") == pytest.approx(2 * 31 / 32 * N * 1e-9, rel=1e-12)


def test_a_link_counts_flows_on_the_wire_and_ranks_on_a_core():
    link = Link(100, 1, 2)
    assert link.s(10) == 100 + 10 * (1 + 2)
    assert link.s(10, flows=3, load=4) == 100 + 10 * (3 * 1 + 4 * 2)


FAST_INSIDE = Network(Link(1, 2), Link(10, 3))
SLOW_INSIDE = Network(Link(20, 4), Link(10, 3))


@pytest.mark.parametrize(
    ("network", "shape", "tree", "ring"),
    [
        # Depth in latencies, then the bytes over the slowest of the links that are there; 6 rounds of a quarter.
        (FAST_INSIDE, Shape(1, 4), 2 * 3 + 2 * 8 * 2, 6 * (1 + 2 * 2)),
        (FAST_INSIDE, Shape(4, 1), 2 * 20 + 2 * 8 * 3, 6 * (10 + 2 * 3)),
        (FAST_INSIDE, Shape(2, 2), 2 * 11 + 2 * 8 * 3, 6 * (10 + 2 * 3)),
        (SLOW_INSIDE, Shape(4, 1), 2 * 20 + 2 * 8 * 3, 6 * (10 + 2 * 3)),
        (SLOW_INSIDE, Shape(2, 2), 2 * 30 + 2 * 8 * 4, 6 * (20 + 2 * 4)),
    ],
)
def test_only_links_that_are_there_slow_it_down(network, shape, tree, ring):
    assert ALGORITHMS["double_tree"](network, shape, 8) == tree
    assert ALGORITHMS["ring"](network, shape, 8) == ring


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("shape", [Shape(1, 4), Shape(4, 1), Shape(2, 2), Shape(3, 1)], ids=str)
def test_what_cores_do_takes_as_often_as_long_as_ranks_share_one(name, shape):
    def busy(load):
        return Network(Link(0, 0, 2e-9), Link(0, 0, 3e-9), GAMMA, load)

    once = ALGORITHMS[name](busy(1), shape, N)
    assert ALGORITHMS[name](busy(3), shape, N) == pytest.approx(3 * once, rel=1e-12)


def test_hierarchy_sums_each_byte_once_inside_and_a_share_between():
    # Of 8 bytes a rank sums half inside its node of two, then half of that half between two nodes.
    assert ALGORITHMS["hierarchical"](Network(Link(0, 0), Link(0, 0), 1.0), Shape(2, 2), 8) == 4 + 2


def test_rounds_reach_twice_as_far_each_time():
    # Two nodes of eight ranks: distances 1, 2 and 4 stay inside, 8 does not.
    messages = Network(Link(1, 0), Link(100, 0))
    assert ALGORITHMS["recursive_doubling"](messages, Shape(2, 8), N) == 103
    assert ALGORITHMS["halving"](messages, Shape(2, 8), N) == 206


def test_halving_shares_the_wire_between_a_nodes_ranks():
    # Four ranks on two nodes: n/2 inside, then two ranks send n/4 each over one wire; twice.
    slow = Network(Link(0, 0), Link(0, 1e-9))
    assert allreduce_s(slow, Shape(2, 2), N, "halving") == pytest.approx(N * 1e-9, rel=1e-12)


def test_a_library_takes_what_is_best_for_the_size():
    shape = Shape(64, 1)
    short, long = allreduce_s(FLAT, shape, 8, "mpi"), allreduce_s(FLAT, shape, 1e9, "mpi")
    assert short == ALGORITHMS["recursive_doubling"](FLAT, shape, 8)
    assert long == ALGORITHMS["halving"](FLAT, shape, 1e9)


@pytest.mark.parametrize("p", range(2, 34))
@pytest.mark.parametrize("name", allreduce_events.ALGORITHMS)
def test_any_number_of_ranks_takes_as_long_as_in_a_simulation_of_its_messages(name, p):
    n = 32 * p
    simulated_s, sums = allreduce_events.run(name, p, 1, n, (ALPHA, BETA), (ALPHA, BETA), GAMMA)
    assert sums == [[2**p - 1] * n] * p
    assert ALGORITHMS[name](FLAT, Shape(p, 1), n) == pytest.approx(simulated_s, rel=1e-9)


@pytest.mark.parametrize("name", ["recursive_doubling", "halving"])
@pytest.mark.parametrize("m", [2, 3, 4, 6])
@pytest.mark.parametrize("nodes", [2, 3, 4, 6, 8])
def test_nodes_of_several_ranks_take_as_long_as_in_a_simulation(name, nodes, m):
    """Rounds of the model wait for each other: off powers of two it is too slow, never too fast."""
    for beta, gamma in ((BETA, GAMMA), (100 * BETA, 100 * GAMMA)):
        network, n = Network(Link(ALPHA / 5, beta / 10), Link(ALPHA, beta), gamma), 4096
        links = [(link.latency_s, link.wire_s_per_byte) for link in (network.inside, network.between)]
        simulated_s, sums = allreduce_events.run(name, nodes, m, n, *links, gamma)
        assert sums == [[2 ** (nodes * m) - 1] * n] * (nodes * m)
        found_s = ALGORITHMS[name](network, Shape(nodes, m), n)
        most = 1.0 if (nodes * m) & (nodes * m - 1) == 0 else 1.45
        assert simulated_s * (1 - 1e-9) <= found_s <= most * simulated_s * (1 + 1e-9)


@settings(deadline=None)
@given(
    st.integers(1, 64), st.integers(1, 8), st.floats(1, 1e9), st.sampled_from(sorted(ALGORITHMS))
)  # fmt: skip
def test_more_bytes_never_take_less_time(nodes, m, size, name):
    cost = ALGORITHMS[name]
    assert 0 <= cost(FLAT, Shape(nodes, m), size) <= cost(FLAT, Shape(nodes, m), 2 * size)


class TestBuckets:
    def test_neighbours_up_to_the_limit_and_a_large_one_alone(self):
        sizes = [3, 3, 3, 20, 1, 1]
        found = bucketed([Gradient(i, s) for i, s in enumerate(sizes)], 7)
        assert [(b.ready_s, b.bytes) for b in found] == [(1, 6), (2, 3), (3, 20), (5, 2)]

    def test_the_training_exchange_makes_the_same_ones(self):
        torch = pytest.importorskip("torch")
        from hpctrain.training.flat_gradients import _group

        parameters = [torch.nn.Parameter(torch.zeros(n)) for n in (700, 10, 300, 300, 5000, 1, 1)]
        real = [sum(p.numel() * 4 for p in group) for group in _group(parameters, 4096)]
        assert [b.bytes for b in bucketed([Gradient(0, p.numel() * 4) for p in parameters], 4096)] == real


AT_ONCE = Exchange(bucket_bytes=1, cycle_s=0, fusion_bytes=1)


class TestOverlap:
    """Sizes are chosen so that a transfer of b bytes takes b seconds."""

    def test_all_but_the_last_transfer_is_hidden(self):
        found = overlap([Gradient(2, 1), Gradient(6, 1), Gradient(10, 1)], 10, AT_ONCE, float)
        assert (found.end_s, found.exposed_s, found.hidden_s) == (11, 1, 2)

    def test_transfers_wait_for_each_other(self):
        found = overlap([Gradient(2, 9), Gradient(10, 1)], 10, AT_ONCE, float)
        assert [t[:2] for t in found.transfers] == [(2, 11), (11, 12)]

    def test_everything_at_the_end_is_the_sum(self):
        found = overlap([Gradient(10, 4), Gradient(10, 3)], 10, AT_ONCE, float)
        assert (found.end_s, found.hidden_s) == (17, 0)

    def test_what_is_found_together_is_fused(self):
        fusing = Exchange(bucket_bytes=1, cycle_s=0, fusion_bytes=100)
        found = overlap([Gradient(1, 5), Gradient(2, 1), Gradient(3, 1)], 3, fusing, float)
        assert found.transfers == ((1, 6, 5), (6, 8, 2))

    def test_no_more_is_fused_than_allowed(self):
        fusing = Exchange(bucket_bytes=1, cycle_s=0, fusion_bytes=5)
        found = overlap([Gradient(1, size) for size in (2, 3, 1, 7, 1)], 1, fusing, float)
        assert [size for _, _, size in found.transfers] == [5, 1, 7, 1]

    def test_compressed_bytes_take_less_time(self):
        halved = Exchange(bucket_bytes=1, cycle_s=0, fusion_bytes=1, compression=0.5)
        found = overlap([Gradient(2, 8)], 2, halved, float)
        assert found.transfers == ((2, 6, 8),)

    def test_a_gradient_waits_for_the_next_look(self):
        found = overlap([Gradient(2.5, 1)], 3, Exchange(1, cycle_s=1, fusion_bytes=1), float, phase=0)
        assert found.transfers[0][:2] == (3, 4)

    def test_negotiation_is_paid_at_each_look(self):
        found = overlap([Gradient(1, 1)], 1, Exchange(1, 0, 1, negotiation_s=0.25), float)
        assert found.end_s == 2.25

    def test_a_stolen_core_hides_nothing(self):
        found = overlap([Gradient(2, 3), Gradient(10, 1)], 10, AT_ONCE, float, stolen=1.0)
        assert found.end_s == 14

    def test_half_stolen(self):
        # From 2 to 6 the backward pass does half: at 6 it has done 4, so it ends at 12; then the last byte.
        found = overlap([Gradient(2, 4), Gradient(10, 1)], 10, AT_ONCE, float, stolen=0.5)
        assert found.end_s == 13


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(1, 1e8)), min_size=1, max_size=30),
    st.floats(0, 1), st.just(0.0) | st.floats(1e-6, 1e-2), st.floats(0, 1),
)  # fmt: skip
def test_an_overlap_loses_no_byte_and_is_bounded(pairs, stolen, cycle_s, phase):
    gradients = sorted((Gradient(*pair) for pair in pairs), key=lambda g: g.ready_s)
    exchange = Exchange(cycle_s=cycle_s)
    found = overlap(gradients, 1.0, exchange, lambda size: size * 1e-9, stolen, phase)
    assert sum(size for _, _, size in found.transfers) == pytest.approx(sum(g.bytes for g in gradients))
    looks = len(found.transfers) * cycle_s
    assert 1 - 1e-9 <= found.end_s <= 1 + found.communication_s + looks + 1e-9


class TestStragglers:
    def test_none_where_nothing_varies(self):
        assert Stragglers(0).slowest(1000) == 1

    def test_the_mean_of_the_slowest_is_that_of_order_statistics(self):
        # For a small variation the log-normal is nearly normal. E[max of p standard normals]: David and
        # Nagaraja 2003, table of expected values: p=2 0.5642, p=10 1.5388, p=100 2.5076.
        for p, expected in ((2, 0.5642), (10, 1.5388), (100, 2.5076)):
            found = (Stragglers(0.001).slowest(p, parts=20_000) - 1) / 0.001
            assert found == pytest.approx(expected, rel=0.01)

    @pytest.mark.parametrize("variation", [0.2, 0.5, 1.0, 2.0])
    def test_the_median_is_that_of_a_log_normal_of_mean_one(self, variation):
        assert Stragglers(variation).quantile(0.5) == pytest.approx(1 / math.sqrt(1 + variation**2))

    def test_no_variation_has_one_quantile(self):
        assert [Stragglers(0).quantile(share) for share in (0.01, 0.5, 0.99)] == [1, 1, 1]

    def test_the_distribution_has_mean_one(self):
        assert sum(Stragglers(0.3).quantile((k + 0.5) / 5000) for k in range(5000)) / 5000 == pytest.approx(
            1, rel=1e-3
        )


class TestStep:
    WORK = Work(0.01, 0.1, 0.2, 0.02, (Gradient(0.1, 1e7), Gradient(0.2, 1e6)))

    def test_one_rank_is_its_own_work(self):
        found = step(self.WORK, FLAT, Shape(1, 1), Exchange(), "ring", Stragglers(0.1))
        assert found == Step(0.01, pytest.approx(0.32), 0.0, 0.0, 0.0)
        assert found.total_s == 0.33

    def test_slowed_work_takes_so_many_times_as_long(self):
        gradients = (Gradient(0.2, 1e7), Gradient(0.4, 1e6))
        assert self.WORK.slowed(2) == Work(0.02, 0.2, 0.4, 0.04, gradients)
        assert self.WORK.slowed(2).total_s == pytest.approx(0.66)

    def test_the_thread_may_be_anywhere_in_its_cycle(self):
        # Ready at 2.5 of 3 s. A thread that looks at 2.75 hides a quarter of the second that the sum takes; one that
        # looks at 3.25 hides nothing and ends at 4.25.
        network = Network(Link(0, 0), Link(0.5, 0))
        exchange = Exchange(bucket_bytes=1, cycle_s=1.0, fusion_bytes=1)
        work = Work(0, 0, 3.0, 0, (Gradient(2.5, 1),))
        found = step(work, network, Shape(2, 1), exchange, "ring", Stragglers())
        assert (found.exposed_s, found.hidden_s) == pytest.approx(((0.75 + 1.25) / 2, (0.25 + 0) / 2))

    def test_a_thread_that_never_sleeps_has_no_cycle(self):
        network = Network(Link(0, 0), Link(0.5, 0))
        work = Work(0, 0, 3.0, 0, (Gradient(2.5, 1),))
        found = step(work, network, Shape(2, 1), AT_ONCE, "ring", Stragglers())
        assert (found.exposed_s, found.hidden_s) == pytest.approx((0.5, 0.5))

    @pytest.mark.parametrize(
        ("network", "shape", "share"),
        [
            # Per byte the host works 1 and half of the sum's 2; the wire takes 3.
            (Network(Link(0, 9, 9), Link(0, 3, 1)), Shape(2, 1), 1 / 4),
            (Network(Link(0, 9, 9), Link(0, 3, 1), 2.0), Shape(2, 1), 2 / 5),
            (Network(Link(0, 9, 9), Link(0, 3, 1), 2.0, load=2), Shape(2, 1), 4 / 7),
            (Network(Link(0, 3, 1), Link(0, 9, 9)), Shape(1, 2), 1 / 4),
            (Network(Link(0, 0, 1), Link(0, 0, 1)), Shape(2, 1), 1),
            (Network(Link(1, 0), Link(1, 0)), Shape(2, 1), 0),
        ],
    )
    def test_a_core_is_taken_only_for_its_part_of_a_byte(self, network, shape, share):
        assert _host_share(network, shape) == pytest.approx(share)

    def test_the_thread_takes_its_part_of_what_it_may_steal(self):
        # A sum of 1 s, from 1 on; half of a byte's time is the host's: the backward pass is half a second late.
        network = Network(Link(0, 0), Link(0, 0.25, 0.25))
        work = Work(0, 0, 3.0, 0, (Gradient(1.0, 2),))
        free = step(work, network, Shape(2, 1), AT_ONCE, "ring", Stragglers())
        busy = step(work, network, Shape(2, 1), AT_ONCE, "ring", Stragglers(), stolen=1.0)
        assert (free.exposed_s, busy.exposed_s) == pytest.approx((0.0, 0.5))

    def test_the_parts_are_the_whole(self):
        exchange = Exchange(bucket_bytes=1e6, cycle_s=0)
        found = step(self.WORK, FLAT, Shape(8, 1), exchange, "ring", Stragglers(0.05))
        slow = Stragglers(0.05).slowest(8)
        # The first bucket (0.018 s) is over before the last gradient is there.
        last = allreduce_s(FLAT, Shape(8, 1), 1e6, "ring")
        assert found.total_s == pytest.approx(0.33 * slow + last, rel=1e-9)
        assert found.straggler_s == pytest.approx(0.33 * (slow - 1), rel=1e-9)

    def test_cpu_ranks_pay_the_hosts_part(self):
        network = Network(Link(0, 0), Link(0, 0, host_s_per_byte=1e-8))
        free = step(self.WORK, network, Shape(2, 1), Exchange(1, 0, 1), "ring", Stragglers())
        busy = step(self.WORK, network, Shape(2, 1), Exchange(1, 0, 1), "ring", Stragglers(), stolen=1.0)
        assert busy.exposed_s == pytest.approx(1.1e7 * 1e-8, rel=1e-6)
        assert free.exposed_s < busy.exposed_s
