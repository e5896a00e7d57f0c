"""Allreduce algorithms run rank by rank in a small event simulation, with real numbers and a clock per rank.

Independent of hpctrain/scaling/network.py, which must take the same seconds. A rank's step sends and receives at most
one message; it ends when both are over, and receiving ranks add what arrives or replace what they have. A message
begins when both of its ranks are there and takes α + β bytes (α, β of its link; messages that leave one node in the
same step share its wire); adding takes γ a byte. The steps are those of Open MPI's coll_base_allreduce.c.
"""

from collections import Counter
from dataclasses import dataclass

ADD, REPLACE = "add", "replace"


@dataclass(frozen=True)
class Message:
    """Elements [first, last) go from one rank to another, which adds them to its own or replaces its own."""

    source: int
    target: int
    first: int
    last: int
    effect: str


def _folded(ranks, keep):
    """Returns (2^k ranks that go on, pairs (kept, dropped)): of each of the first pairs the odd or even one goes on."""
    power = 1 << (ranks.bit_length() - 1)
    pairs = [(2 * i + keep, 2 * i + 1 - keep) for i in range(ranks - power)]
    return [kept for kept, _ in pairs] + list(range(2 * len(pairs), ranks)), pairs


def recursive_doubling(ranks, n):
    """Returns the steps: even ranks of surplus pairs give all they have; partners at doubling distances add all."""
    active, pairs = _folded(ranks, keep=1)
    steps = [[Message(gone, kept, 0, n, ADD) for kept, gone in pairs]]
    distance = 1
    while distance < len(active):
        steps.append([Message(active[i], active[i ^ distance], 0, n, ADD) for i in range(len(active))])
        distance *= 2
    return [*steps, [Message(kept, gone, 0, n, REPLACE) for kept, gone in pairs]]


def halving(ranks, n):
    """Returns the steps: surplus pairs add half each, odd ones hand theirs over; then halves of halves, and back."""
    active, pairs = _folded(ranks, keep=0)
    half = n // 2
    exchanged = [Message(kept, gone, half, n, ADD) for kept, gone in pairs]
    exchanged += [Message(gone, kept, 0, half, ADD) for kept, gone in pairs]
    steps = [exchanged, [Message(gone, kept, half, n, REPLACE) for kept, gone in pairs]]
    spans, distance, down = [(0, n)] * len(active), 1, []
    while distance < len(active):
        messages, kept = [], []
        for i, (first, last) in enumerate(spans):
            middle = (first + last) // 2
            upper = bool(i & distance)
            sent = (first, middle) if upper else (middle, last)
            messages.append(Message(active[i], active[i ^ distance], *sent, ADD))
            kept.append((middle, last) if upper else (first, middle))
        down.append((distance, kept))
        steps.append(messages)
        spans, distance = kept, 2 * distance
    for distance, kept in reversed(down):
        steps.append(
            [Message(active[i], active[i ^ distance], *kept[i], REPLACE) for i in range(len(active))]
        )
    return [*steps, [Message(kept, gone, 0, n, REPLACE) for kept, gone in pairs]]


def ring(ranks, n):
    """Returns the steps: each part goes once around to be summed, and once around to be known."""

    def part(k):
        return (k % ranks) * n // ranks, (k % ranks + 1) * n // ranks

    around = [
        [Message(r, (r + 1) % ranks, *part(r - step), ADD) for r in range(ranks)] for step in range(ranks - 1)
    ]
    back = [
        [Message(r, (r + 1) % ranks, *part(r + 1 - step), REPLACE) for r in range(ranks)]
        for step in range(ranks - 1)
    ]
    return around + back


ALGORITHMS = {"recursive_doubling": recursive_doubling, "halving": halving, "ring": ring}


def run(name, nodes, ranks_per_node, n, inside, between, gamma):
    """Returns (seconds until the last rank has ended, each rank's n sums) of elements of one byte.

    `inside` and `between` are (α, β). Rank r begins with n times the value 2^r, so that each sum says what it holds.
    """
    ranks = nodes * ranks_per_node
    clocks, values = [0.0] * ranks, [[1 << r] * n for r in range(ranks)]
    for messages in ALGORITHMS[name](ranks, n) if ranks > 1 else []:
        leaving = Counter(
            m.source // ranks_per_node
            for m in messages
            if m.source // ranks_per_node != m.target // ranks_per_node
        )
        ends, arrived = list(clocks), []
        for m in messages:
            home = m.source // ranks_per_node
            outside = home != m.target // ranks_per_node
            alpha, beta = between if outside else inside
            size = m.last - m.first
            over = (
                max(clocks[m.source], clocks[m.target])
                + alpha
                + size * beta * (leaving[home] if outside else 1)
            )
            ends[m.source] = max(ends[m.source], over)
            ends[m.target] = max(ends[m.target], over + (size * gamma if m.effect == ADD else 0.0))
            arrived.append((m, values[m.source][m.first : m.last]))
        for m, given in arrived:
            own = values[m.target][m.first : m.last]
            values[m.target][m.first : m.last] = (
                [a + b for a, b in zip(own, given, strict=True)] if m.effect == ADD else given
            )
        clocks = ends
    return max(clocks), values
