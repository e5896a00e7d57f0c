"""A model of one synchronous step on p ranks: α-β-γ costs of an allreduce, overlap with backward, stragglers.

Pure: takes a network's parameters, gradients with the times at which they are ready, and the exchange's settings;
returns seconds. n is bytes per rank, p ranks, N nodes, m ranks per node (p = N m); α seconds per message, β seconds per
byte on the wire, γ seconds per byte of reduction. No I/O, no torch. docs/scaling.md derives each formula.

Sources: α-β model, Hockney, Parallel Computing 20 (1994); allreduce costs, Thakur, Rabenseifner, Gropp, IJHPCA
19 (2005), and Chan et al., Concurrency and Computation 19 (2007); the ring is optimal in bandwidth, Patarasuk,
Yuan, JPDC 69 (2009); two trees at once, Sanders, Speck, Träff, Parallel Computing 35 (2009); cycles and tensor
fusion, Sergeev, Del Balso, arXiv:1802.05799 (2018); the slowest of p, David, Nagaraja, Order Statistics (2003).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist

from hpctrain.config.settings import PIECE_BYTES
from hpctrain.training import buckets


@dataclass(frozen=True)
class Link:
    """One link. `host_s_per_byte` is a core's time for each byte (copies, protocol), on top of the wire's time."""

    latency_s: float
    wire_s_per_byte: float
    host_s_per_byte: float = 0.0

    def s(self, size: float, flows: int = 1, load: float = 1.0) -> float:
        """Returns seconds for `size` bytes while `flows` messages share the wire and `load` ranks share a core."""
        return self.latency_s + size * (flows * self.wire_s_per_byte + load * self.host_s_per_byte)


@dataclass(frozen=True)
class Network:
    """Links inside and between nodes, and γ. `load` is the number of ranks that share a core (at least 1)."""

    inside: Link
    between: Link
    reduce_s_per_byte: float = 0.0
    load: float = 1.0


@dataclass(frozen=True)
class Shape:
    """p = nodes × ranks_per_node, numbered node by node."""

    nodes: int
    ranks_per_node: int

    @property
    def ranks(self) -> int:
        """The number of ranks, p."""
        return self.nodes * self.ranks_per_node


def ring_s(network: Network, shape: Shape, size: float) -> float:
    """Returns 2(p-1)(α + βn/p) + (p-1)γn/p: 2(p-1) rounds of n/p bytes to the neighbour, p-1 of them with a sum.

    The ring enters and leaves each node once. A round takes as long as its slowest link.
    """
    p = shape.ranks
    if p == 1:
        return 0.0
    return 2 * (p - 1) * _slowest_s(network, shape, size / p) + (p - 1) * _sum_s(network, size / p)


def double_tree_s(network: Network, shape: Shape, size: float) -> float:
    """Returns 2⌈log₂p⌉α + 2βn + γn: two pipelined binary trees, each with half of the bytes.

    A node's ranks form a chain, so that the tree between nodes has depth ⌈log₂N⌉.
    """
    nodes, m = shape.nodes, shape.ranks_per_node
    if shape.ranks == 1:
        return 0.0
    depth_s = math.ceil(math.log2(nodes)) * network.between.latency_s + (m - 1) * network.inside.latency_s
    each_s = [_bytes_s(network, network.between, size)] if nodes > 1 else []
    each_s += [_bytes_s(network, network.inside, size)] if m > 1 else []
    return 2 * depth_s + 2 * max(each_s) + _sum_s(network, size)


def recursive_doubling_s(network: Network, shape: Shape, size: float) -> float:
    """Returns k(α + βn + γn) for p = 2ᵏ: k rounds with all bytes in each. It is best for short messages.

    If p is not a power of two, k is ⌊log₂p⌋, and 2(α + βn) + γn more are for the surplus ranks: each gives its bytes to
    a neighbour beforehand, and receives the sum in the end.
    """
    fold, rounds = _rounds(shape, kept=1)
    folding_s = 2 * _round_s(network, fold, size) + _sum_s(network, size) if fold else 0.0
    return folding_s + sum(_round_s(network, each, size) + _sum_s(network, size) for each in rounds)


def halving_s(network: Network, shape: Shape, size: float) -> float:
    """Returns 2kα + 2(q-1)/q βn + (q-1)/q γn for p = q = 2ᵏ: Rabenseifner's halving to reduce-scatter, then doubling.

    Near ranks exchange first, with the larger halves. If p is not a power of two, q = 2ᵏ is the next lower one, and
    3α + 2βn + γn/2 more are for the surplus ranks: neighbours exchange halves and sum them, one gives its half to the
    other beforehand, and receives the whole sum in the end (Open MPI's coll_base_allreduce.c).
    """
    fold, rounds = _rounds(shape, kept=0)
    total_s, part = 0.0, size
    if fold:
        total_s = 2 * _round_s(network, fold, size / 2) + _sum_s(network, size / 2)
        total_s += _round_s(network, fold, size)
    for each in rounds:
        part /= 2
        total_s += 2 * _round_s(network, each, part) + _sum_s(network, part)
    return total_s


def hierarchical_s(network: Network, shape: Shape, size: float) -> float:
    """Returns the seconds of Horovod's hierarchical allreduce: reduce-scatter inside nodes, allreduce of n/m
    between them on m rings, gather inside nodes."""
    nodes, m = shape.nodes, shape.ranks_per_node
    inside_s = (m - 1) * (2 * network.inside.s(size / m, load=network.load) + _sum_s(network, size / m))
    if nodes == 1:
        return inside_s
    part = size / m / nodes
    round_s = network.between.s(part, flows=m, load=network.load)
    return inside_s + (nodes - 1) * (2 * round_s + _sum_s(network, part))


Cost = Callable[[Network, Shape, float], float]
ALGORITHMS: dict[str, Cost] = {
    "ring": ring_s,
    "double_tree": double_tree_s,
    "recursive_doubling": recursive_doubling_s,
    "halving": halving_s,
    "hierarchical": hierarchical_s,
}
# The algorithms that a library chooses from by size: NCCL's tuner (GPU), Open MPI's table (CPU).
CHOICES = {"nccl": ("ring", "double_tree"), "mpi": ("recursive_doubling", "halving", "ring")}


def allreduce_s(network: Network, shape: Shape, size: float, algorithm: str) -> float:
    """Returns seconds to sum `size` bytes over all ranks by a named algorithm, or by a library's best (`CHOICES`)."""
    names = CHOICES.get(algorithm, (algorithm,))
    return min(ALGORITHMS[name](network, shape, size) for name in names)


def _slowest_s(network: Network, shape: Shape, size: float) -> float:
    links = [network.between] if shape.nodes > 1 else []
    links += [network.inside] if shape.ranks_per_node > 1 else []
    return max(link.s(size, load=network.load) for link in links)


@dataclass(frozen=True)
class _Round:
    """Messages at the same time: whether any stays inside of a node, and how many at most leave one node."""

    inside: bool
    flows: int


@lru_cache(maxsize=1024)
def _rounds(shape: Shape, kept: int) -> tuple[_Round | None, list[_Round]]:
    """Returns the round in which surplus ranks fold (None if p is a power of two), and those at distances 1, 2, 4, ...

    Of the first p - 2ᵏ pairs of neighbours one rank goes on: the odd one (`kept` = 1) or the even one (0). A round
    begins when the one before has ended everywhere: with nodes of several ranks, off powers of two, that is too slow
    by up to 45 % (tests/unit/scaling/test_network.py).
    """
    power = 1 << (shape.ranks.bit_length() - 1)
    pairs = [(2 * i, 2 * i + 1) for i in range(shape.ranks - power)]
    active = [pair[kept] for pair in pairs] + list(range(2 * len(pairs), shape.ranks))
    rounds = [
        _round(shape, [(rank, active[place ^ (1 << k)]) for place, rank in enumerate(active)])
        for k in range(power.bit_length() - 1)
    ]
    return _round(shape, pairs) if pairs else None, rounds


def _round(shape: Shape, messages: Sequence[tuple[int, int]]) -> _Round:
    nodes = [(source // shape.ranks_per_node, to // shape.ranks_per_node) for source, to in messages]
    leaving = Counter(source for source, to in nodes if source != to)
    return _Round(len(nodes) > leaving.total(), max(leaving.values(), default=0))


def _round_s(network: Network, each: _Round, size: float) -> float:
    """Returns the seconds of a round whose messages have `size` bytes; those that leave a node share its wire."""
    inside_s = network.inside.s(size, load=network.load) if each.inside else 0.0
    between_s = network.between.s(size, flows=each.flows, load=network.load) if each.flows else 0.0
    return max(inside_s, between_s)


def _bytes_s(network: Network, link: Link, size: float) -> float:
    return link.s(size, load=network.load) - link.latency_s


def _sum_s(network: Network, size: float) -> float:
    return size * network.reduce_s_per_byte * network.load


@dataclass(frozen=True)
class Gradient:
    """The gradient of a parameter (or layer): its size, and when it is ready, from the backward pass's start."""

    ready_s: float
    bytes: float


@dataclass(frozen=True)
class Exchange:
    """How gradients are exchanged: hpctrain's buckets, and Horovod's cycle and fusion."""

    bucket_bytes: float = 25 * 2**20
    cycle_s: float = 0.5e-3
    fusion_bytes: float = PIECE_BYTES
    negotiation_s: float = 0.0
    compression: float = 1.0  # bytes on the wire per byte of gradient


@dataclass(frozen=True)
class Overlapped:
    """A backward pass with its exchange. Both have ended at `end_s`; `transfers` holds (start, end, bytes) of each."""

    end_s: float
    backward_s: float
    transfers: tuple[tuple[float, float, float], ...]

    @property
    def communication_s(self) -> float:
        """The seconds of all transfers."""
        return math.fsum(end - start for start, end, _ in self.transfers)

    @property
    def exposed_s(self) -> float:
        """The seconds that the exchange adds to the step."""
        return self.end_s - self.backward_s

    @property
    def hidden_s(self) -> float:
        """The seconds of communication that overlap with the backward pass."""
        return max(0.0, self.communication_s - self.exposed_s)


def bucketed(gradients: Sequence[Gradient], bucket_bytes: float) -> list[Gradient]:
    """Returns the exchange's buckets; each is ready when the last of its gradients is."""
    groups = buckets.group(gradients, lambda gradient: gradient.bytes, bucket_bytes)
    return sorted(map(_together, groups), key=lambda bucket: bucket.ready_s)


def _together(gradients: Sequence[Gradient]) -> Gradient:
    return Gradient(max(g.ready_s for g in gradients), math.fsum(g.bytes for g in gradients))


def _fused(messages: Sequence[Gradient], limit_bytes: float) -> list[Gradient]:
    """Returns Horovod's fused messages: neighbours of at most `limit_bytes` together, or a larger one alone."""
    fused: list[Gradient] = []
    for message in messages:
        if fused and fused[-1].bytes + message.bytes <= limit_bytes:
            fused[-1] = _together([fused[-1], message])
        else:
            fused.append(message)
    return fused


def overlap(
    gradients: Sequence[Gradient],
    backward_s: float,
    exchange: Exchange,
    cost_s: Callable[[float], float],
    stolen: float = 0.0,
    phase: float = 0.5,
) -> Overlapped:
    """Simulates the exchange event by event and returns its times.

    The backward pass fills buckets. A background thread looks for full ones each cycle and sums them one after
    the other, neighbours fused to at most `fusion_bytes`, before it looks again. `cost_s` returns the seconds of
    an allreduce by its number of bytes; while it runs, the backward pass continues at the rate 1 - `stolen`. `phase`
    is the thread's position in its first cycle at the start.
    """
    waiting = bucketed(gradients, exchange.bucket_bytes)
    now_s = done_s = 0.0  # wall time, and the part of the backward pass that is done
    tick_s = -phase * exchange.cycle_s
    transfers: list[tuple[float, float, float]] = []
    while waiting:
        ready_s = now_s + max(0.0, waiting[0].ready_s - done_s)
        looks = max(1, math.ceil((ready_s - tick_s) / exchange.cycle_s)) if exchange.cycle_s else 0
        tick_s = max(ready_s, tick_s + looks * exchange.cycle_s)
        done_s += tick_s + exchange.negotiation_s - now_s
        now_s = tick_s + exchange.negotiation_s
        full = [bucket for bucket in waiting if bucket.ready_s <= done_s + 1e-12]
        waiting = waiting[len(full) :]
        for message in _fused(full, exchange.fusion_bytes):
            took_s = cost_s(message.bytes * exchange.compression)
            transfers.append((now_s, now_s + took_s, message.bytes))
            # At the end this may exceed the backward pass, which then has nothing left to slow down.
            done_s += took_s * (1 - stolen)
            now_s += took_s
    return Overlapped(now_s + max(0.0, backward_s - done_s), backward_s, tuple(transfers))


@dataclass(frozen=True)
class Stragglers:
    """Ranks' computing times follow a log-normal of mean 1 with this coefficient of variation."""

    variation: float = 0.0

    def quantile(self, share: float) -> float:
        """Returns the factor that `share` of the ranks do not exceed."""
        if self.variation == 0.0:
            return 1.0
        sigma = math.sqrt(math.log1p(self.variation**2))
        return math.exp(sigma * NormalDist().inv_cdf(share) - sigma**2 / 2)

    def slowest(self, ranks: int, parts: int = 200) -> float:
        """Returns the mean of the largest of `ranks` factors, ∫ F⁻¹(u^(1/p)) du over 0..1, by midpoints."""
        return _slowest(self, ranks, parts)


@lru_cache(maxsize=1024)  # a prediction needs the same value for each of its draws
def _slowest(stragglers: Stragglers, ranks: int, parts: int) -> float:
    if stragglers.variation == 0.0 or ranks == 1:
        return 1.0
    return math.fsum(stragglers.quantile(((k + 0.5) / parts) ** (1 / ranks)) for k in range(parts)) / parts


@dataclass(frozen=True)
class Work:
    """One rank's part of a step in seconds, without communication, and when its gradients are ready."""

    data_s: float
    forward_s: float
    backward_s: float
    optimizer_s: float
    gradients: tuple[Gradient, ...]

    @property
    def total_s(self) -> float:
        """The seconds of all parts."""
        return self.data_s + self.forward_s + self.backward_s + self.optimizer_s

    def slowed(self, factor: float) -> Work:
        """Returns the same work with each part `factor` times as long."""
        return Work(
            self.data_s * factor,
            self.forward_s * factor,
            self.backward_s * factor,
            self.optimizer_s * factor,
            tuple(replace(g, ready_s=g.ready_s * factor) for g in self.gradients),
        )


@dataclass(frozen=True)
class Step:
    """The parts of a predicted step in seconds. `hidden_s` overlaps with `compute_s` and is not in the total."""

    data_s: float
    compute_s: float
    exposed_s: float
    hidden_s: float
    straggler_s: float

    @property
    def total_s(self) -> float:
        """The seconds of the whole step."""
        return self.data_s + self.compute_s + self.exposed_s + self.straggler_s


def step(
    work: Work,
    network: Network,
    shape: Shape,
    exchange: Exchange,
    algorithm: str,
    stragglers: Stragglers,
    stolen: float = 0.0,
) -> Step:
    """Returns one step on `shape`. Every rank waits for the slowest one, whose gradients complete the sums.

    `stolen` is the share of the computing cores (CPU ranks) that the communication thread takes while it works
    on bytes, not while it waits for the wire.
    """
    factor = stragglers.slowest(shape.ranks)
    slow = work.slowed(factor)
    stolen *= _host_share(network, shape)
    if shape.ranks == 1:
        return Step(work.data_s, work.total_s - work.data_s, 0.0, 0.0, 0.0)
    # The thread's position in its cycle is random when a backward pass starts: two positions represent all.
    passes = [
        overlap(
            slow.gradients,
            slow.backward_s,
            exchange,
            lambda size: allreduce_s(network, shape, size, algorithm),
            stolen,
            phase,
        )
        for phase in ((0.25, 0.75) if exchange.cycle_s else (0.5,))
    ]
    exposed_s, hidden_s = (
        math.fsum(v) / len(passes) for v in zip(*((p.exposed_s, p.hidden_s) for p in passes), strict=True)
    )
    return Step(work.data_s, work.total_s - work.data_s, exposed_s, hidden_s, work.total_s * (factor - 1))


def _host_share(network: Network, shape: Shape) -> float:
    """Returns the share of a transfer that occupies a core, on the slowest kind of link."""
    link = network.between if shape.nodes > 1 else network.inside
    host = (link.host_s_per_byte + network.reduce_s_per_byte / 2) * network.load
    whole = host + link.wire_s_per_byte
    return min(1.0, host / whole) if whole else 0.0
