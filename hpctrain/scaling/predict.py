"""Predicts step times for job sizes that have not been run: fits a calibration and evaluates the model.

Pure: takes profiles (storage/profile.py) as plain values, returns seconds with 95 % intervals. No I/O, no torch.
The fit covers α and β of each kind of link, from sums over two ranks; the time of a step's parts as a function of
the batch and of the ranks that share a node; and the scatter of ranks. docs/scaling.md derives it and its limits.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from hpctrain.report.intervals import LEVEL
from hpctrain.scaling import network
from hpctrain.scaling.network import (
    Exchange,
    Gradient,
    Link,
    Network,
    Shape,
    Step,
    Stragglers,
    Work,
)
from hpctrain.storage.profile import Computing, Profile, Sum

DRAWS = 200
HEADERS = 1514 / 1448  # Ethernet bytes per byte of TCP payload, in packets of 1500


@dataclass(frozen=True)
class LinkFit:
    """A fitted link: α, β, and the relative difference (root mean square) of β from β at other message sizes."""

    latency_s: float
    s_per_byte: float
    error: float


@dataclass(frozen=True)
class Calibration:
    """Measured profiles by shape ("1x1", "1x2", "2x1"), and the facts of the cluster that they were measured on."""

    profiles: Mapping[str, Profile]
    nodes_per_host: int = 1
    link_gbit_per_s: float | None = None
    cycle_s: float = 0.0  # Horovod's cycle during the measurement
    bucket_bytes: float = 25 * 2**20  # the exchange's bucket size during the measurement

    @property
    def one(self) -> Profile:
        """The profile of a single rank."""
        return self.profiles["1x1"]

    @property
    def on_cpu(self) -> bool:
        """Whether ranks compute on the CPU."""
        return self.one["device"] == "cpu"

    def load(self, on: Shape) -> float:
        """Returns how many ranks share a core of one machine; 1 if each has its own."""
        if not self.on_cpu:
            return 1.0
        return max(1.0, self.neighbours(on) / self.one["cores"])

    def busy(self, name: str = "1x1") -> float:
        """Returns how many cores one rank keeps busy while it computes; waiting for a device keeps none busy."""
        part = own_batch(self.profiles[name])
        seconds = part["data_s"] + part["forward_s"] + part["backward_s"]
        return min(part.get("cpu_s", seconds) / seconds, self.one["cores"])

    def contention(self, ranks: int) -> float:
        """Returns the factor by which computing slows down if `ranks` on one machine want more cores than it has.

        Horovod's thread wants its share of a core too, as the profiles of several ranks show. Time that a rank
        spends waiting for a device does not grow.
        """
        wanted = ranks * max(self.busy(name) for name in self.profiles)
        return 1.0 + min(1.0, self.busy()) * (max(1.0, wanted / self.one["cores"]) - 1.0)

    def stolen(self, on: Shape) -> float:
        """Returns the share of a rank's computing that the exchange takes; all of it if no core is left for it."""
        if not self.on_cpu:
            return 0.0
        busy = self.busy()
        left = self.one["cores"] / self.neighbours(on) - busy
        return max(0.0, min(1.0, 1.0 - left)) * min(1.0, busy)

    def neighbours(self, on: Shape) -> int:
        """Returns the number of ranks on one machine."""
        return on.ranks_per_node * min(on.nodes, self.nodes_per_host)


def own_batch(profile: Profile) -> Computing:
    """Returns the profiled step at the run's own batch size."""
    return profile["computing"][str(profile["batch_size"])]


def fit_link(sums: Sequence[Sum], size: float, cycle_s: float = 0.0) -> LinkFit:
    """Returns the link behind sums over two ranks, which take 2α + nβ.

    α comes from the shortest sum. β depends on the size, because copies and protocols do, so it is interpolated
    at the job's own `size` in bytes: between the two measured sizes around it, in the logarithms of size and
    time. Its error is the difference from β at those two. A sum waits for half of Horovod's cycle on average,
    which is not part of the link.
    """
    times = sorted((float(s["bytes"]), statistics.median(s["s"])) for s in sums)
    latency_s = max(1e-7, (times[0][1] - cycle_s / 2) / 2)
    constant_s = 2 * latency_s + cycle_s / 2
    size = min(max(size, times[1][0]), times[-1][0])
    place = next(k for k in range(1, len(times)) if size <= times[k][0])
    (n0, t0), (n1, t1) = times[place - 1], times[place]
    share = math.log(size / n0) / math.log(n1 / n0)
    betas = [
        max(0.0, t - constant_s) / n for n, t in ((size, t0 ** (1 - share) * t1**share), (n0, t0), (n1, t1))
    ]
    beta = max(betas[0], 1e-13)
    return LinkFit(
        latency_s, beta, math.sqrt(statistics.fmean([min(1.0, abs(b / beta - 1)) ** 2 for b in betas[1:]]))
    )


@dataclass(frozen=True)
class Links:
    """The fitted links inside and between nodes."""

    inside: LinkFit
    between: LinkFit


def fit_links(calibration: Calibration, exchange: Exchange) -> Links:
    """Returns both kinds of link; a cluster of single-rank nodes, or of one node, has only one kind.

    β is fitted at the size of the bucket in which an average byte travels. If the profile holds the exchange of
    these same gradients, β is scaled by how much longer that took: repeated sums of one buffer find their bytes in
    the caches, gradients do not.
    """
    gradients = [Gradient(g["ready_s"], g["bytes"]) for g in calibration.one["gradients"]]
    wanted = [bucket.bytes for bucket in network.bucketed(gradients, exchange.bucket_bytes)]
    measured = [bucket.bytes for bucket in network.bucketed(gradients, calibration.bucket_bytes)]
    fits = {}
    for name in ("1x2", "2x1"):
        if name not in calibration.profiles:
            continue
        profile = calibration.profiles[name]

        def fit(sizes: Sequence[float], of: Profile = profile) -> LinkFit:
            size = math.fsum(n * n for n in sizes) / math.fsum(sizes)
            return fit_link(of["sums"], size, calibration.cycle_s)

        link, factor = fit(wanted), 1.0
        if profile.get("exchange_s") and _bytes(profile) == _bytes(calibration.one):
            own = fit(measured)
            rest_s = statistics.median(profile["exchange_s"]) - calibration.cycle_s / 2
            rest_s -= 2 * own.latency_s * len(measured)
            factor = max(0.1, rest_s / math.fsum(measured) / own.s_per_byte)
        fits[name] = replace(link, s_per_byte=link.s_per_byte * factor)
    one = next(iter(fits.values()), LinkFit(0.0, 0.0, 0.0))
    return Links(fits.get("1x2", one), fits.get("2x1", one))


def _bytes(profile: Profile) -> list[int]:
    return [g["bytes"] for g in profile["gradients"]]


def network_of(calibration: Calibration, links: Links, on: Shape, gbit_per_s: float | None) -> Network:
    """Returns the network that a job of this shape sees.

    Between nodes, β has two parts: the wire's time, known from its rate, and the hosts' work on each byte. With
    another rate (`gbit_per_s`) only the wire's part changes. On GPUs the hosts' part is zero.
    """
    fitted = links.between.s_per_byte
    wire = fitted
    if calibration.link_gbit_per_s and calibration.on_cpu:
        wire = min(fitted, HEADERS * 8e-9 / calibration.link_gbit_per_s)
    host = fitted - wire
    if gbit_per_s and calibration.link_gbit_per_s:
        wire *= calibration.link_gbit_per_s / gbit_per_s
    inside = links.inside.s_per_byte
    shares = calibration.on_cpu  # a core does the copies in memory
    return Network(
        Link(links.inside.latency_s, 0.0 if shares else inside, inside if shares else 0.0),
        Link(links.between.latency_s, wire, host),
        load=calibration.load(on) / calibration.load(Shape(1, 2)),
    )


def work_of(calibration: Calibration, on: Shape, batch: float) -> Work:
    """Returns a rank's part of a step with `batch` samples, slowed by its neighbours in the shape `on`."""
    wanted = calibration.neighbours(on)
    known = {
        int(name[2:]): profile for name, profile in calibration.profiles.items() if name.startswith("1x")
    }
    below = max((c for c in known if c <= wanted), default=min(known))
    above = min((c for c in known if c >= wanted), default=max(known))
    first, second = _at_batch(known[below], batch), _at_batch(known[above], batch)
    share = (wanted - below) / (above - below) if above > below else 0.0
    mixed = _mix(first, second, share)
    # With more neighbours than were measured, ranks take turns if they outnumber the cores.
    crowded = calibration.contention(wanted) / calibration.contention(above) if wanted > above else 1.0
    return mixed.slowed(max(1.0, crowded)) if calibration.on_cpu else mixed


def _at_batch(profile: Profile, batch: float) -> Work:
    """Returns each part by linear interpolation between the measured batches, extrapolated beyond them."""
    known = sorted(
        ((int(size), part) for size, part in profile["computing"].items()), key=lambda pair: pair[0]
    )
    data_s = _line([(size, part["data_s"]) for size, part in known], batch)
    forward_s = _line([(size, part["forward_s"]) for size, part in known], batch)
    backward_s = _line([(size, part["backward_s"]) for size, part in known], batch)
    whole_s = own_batch(profile)["backward_s"]
    gradients = tuple(
        Gradient(min(1.0, g["ready_s"] / whole_s) * backward_s, g["bytes"]) for g in profile["gradients"]
    )
    return Work(data_s, forward_s, backward_s, profile["optimizer_s"], gradients)


def _line(pairs: Sequence[tuple[float, float]], at: float) -> float:
    if len(pairs) == 1:
        return pairs[0][1] * at / pairs[0][0]
    place = next((k for k in range(1, len(pairs) - 1) if at <= pairs[k][0]), len(pairs) - 1)
    (x0, y0), (x1, y1) = pairs[place - 1], pairs[place]
    return max(0.0, y0 + (y1 - y0) * (at - x0) / (x1 - x0))


def _mix(a: Work, b: Work, share: float) -> Work:
    def between(x: float, y: float) -> float:
        return x + (y - x) * share

    return Work(
        between(a.data_s, b.data_s),
        between(a.forward_s, b.forward_s),
        between(a.backward_s, b.backward_s),
        between(a.optimizer_s, b.optimizer_s),
        tuple(
            replace(g, ready_s=between(g.ready_s, h.ready_s))
            for g, h in zip(a.gradients, b.gradients, strict=True)
        ),
    )


def variation(calibration: Calibration) -> float:
    """Returns the coefficient of variation over ranks within a step, as its median over steps."""
    spreads = []
    for profile in calibration.profiles.values():
        ranks = own_batch(profile)["step_s"]
        if len(ranks) > 1:
            spreads += [statistics.stdev(step) / statistics.fmean(step) for step in zip(*ranks, strict=True)]
    return statistics.median(spreads) if spreads else 0.0


@dataclass(frozen=True)
class Predicted:
    """The prediction for one GPU count: the step, its interval, throughput, and efficiency relative to one GPU."""

    gpus: int
    nodes: int
    batch: int
    step: Step
    low_s: float
    high_s: float
    samples_per_s: float
    efficiency: float
    efficiency_low: float
    efficiency_high: float


def predict(
    calibration: Calibration,
    points: Sequence[tuple[Shape, int]],
    exchange: Exchange,
    algorithm: str,
    single_batch: int,
    accumulate: int = 1,
    gbit_per_s: float | None = None,
    draws: int = DRAWS,
) -> list[Predicted]:
    """Returns the prediction for each point.

    `points` are shapes with the samples of a rank's forward pass; `single_batch` is that of the single GPU that
    efficiency refers to. The intervals come from the parameters (the profile's scatter over its steps and the
    links' error), with the same random draws for every point.
    """
    links = fit_links(calibration, exchange)
    scatter = Stragglers(variation(calibration))
    steps_s = own_batch(calibration.one)["step_s"][0]
    unsure = statistics.stdev(steps_s) / math.sqrt(len(steps_s)) / statistics.fmean(steps_s)
    draw = random.Random(0)
    factors = [(draw.gauss(1, unsure), draw.gauss(0, 1)) for _ in range(draws)]

    def stepper(on: Shape, batch: int) -> Callable[[float, float], Step]:
        """Returns a function from errors of work (a factor) and links (in standard errors) to the step."""
        nominal, own = network_of(calibration, links, on, gbit_per_s), work_of(calibration, on, batch)

        def one(work: float, wire: float) -> Step:
            mine, off = own.slowed(max(0.1, work)), nominal
            if wire:
                inside, between = 1 + wire * links.inside.error, 1 + wire * links.between.error
                off = replace(
                    nominal, inside=_slower(nominal.inside, inside), between=_slower(nominal.between, between)
                )
            step = network.step(mine, off, on, exchange, algorithm, scatter, calibration.stolen(on))
            # Forward and backward passes before the last of a step exchange nothing.
            earlier_s = (accumulate - 1) * (mine.data_s + mine.forward_s + mine.backward_s)
            return replace(step, compute_s=step.compute_s + earlier_s)

        return one

    single = stepper(Shape(1, 1), single_batch)
    base = accumulate * single_batch / single(1.0, 0.0).total_s
    alone = [single(work, 0.0).total_s for work, _ in factors]
    predictions = []
    for on, batch in points:
        one = stepper(on, batch)
        step = one(1.0, 0.0)
        samples = accumulate * batch * on.ranks
        drawn = [one(work, wire).total_s for work, wire in factors]
        low_s, high_s = _interval(drawn)
        shares = [
            samples / t / (accumulate * single_batch / t1) / on.ranks
            for t, t1 in zip(drawn, alone, strict=True)
        ]
        low, high = _interval(shares)
        rate = samples / step.total_s
        predictions.append(
            Predicted(
                on.ranks, on.nodes, samples, step, low_s, high_s, rate, rate / base / on.ranks, low, high
            )
        )
    return predictions


def _slower(link: Link, factor: float) -> Link:
    factor = max(0.2, factor)
    return replace(
        link, wire_s_per_byte=link.wire_s_per_byte * factor, host_s_per_byte=link.host_s_per_byte * factor
    )


def _interval(values: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(values)
    edge = (1 - LEVEL) / 2
    return ordered[int(edge * (len(ordered) - 1))], ordered[math.ceil((1 - edge) * (len(ordered) - 1))]
