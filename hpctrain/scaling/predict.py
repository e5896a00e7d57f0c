"""Predicts step times for job sizes that have not been run: fits a calibration and evaluates the model.

Pure: takes profiles (storage/profile.py) as plain values, returns seconds, with 95 % intervals if the calibration was
repeated. No I/O, no torch. The fit covers α and β of each kind of link, from sums over two ranks; the time of a
step's parts as a function of the batch and of the ranks that share a node; and the scatter of ranks. docs/scaling.md
derives it and its limits.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace

from hpctrain.report.intervals import interval
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

HEADERS = 1514 / 1448  # Ethernet bytes per byte of TCP payload, in packets of 1500


@dataclass(frozen=True)
class LinkFit:
    """A fitted link: α, β, and the relative difference (root mean square) of β from that at neighbouring sizes."""

    latency_s: float
    s_per_byte: float
    error: float


@dataclass(frozen=True)
class Calibration:
    """Measured profiles by shape ("1x1", "1x2", "2x1"), and the facts of the cluster that they were measured on.

    `algorithm` is that of the measured sums, as network.allreduce_s knows it. `repeats` are further measurements.
    """

    profiles: Mapping[str, Profile]
    nodes_per_host: int = 1
    link_gbit_per_s: float | None = None
    cycle_s: float = 0.0  # Horovod's cycle during the measurement
    bucket_bytes: float = 25 * 2**20  # the exchange's bucket size during the measurement
    algorithm: str = "ring"
    repeats: tuple[Calibration, ...] = ()

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


def unit_costs(name: str, algorithm: str) -> tuple[float, float]:
    """Returns (a, b) of the time aα + bβn that the model gives a sum of n bytes over two ranks, "1x2" or "2x1"."""
    nodes, ranks_per_node = map(int, name.split("x"))

    def cost(link: Link) -> float:
        return network.allreduce_s(Network(link, link), Shape(nodes, ranks_per_node), 1.0, algorithm)

    return cost(Link(1.0, 0.0)), cost(Link(0.0, 1.0))


def fit_link(
    sums: Sequence[Sum], size: float, cycle_s: float = 0.0, costs: tuple[float, float] = (2.0, 1.0)
) -> LinkFit:
    """Returns the link with which the model gives sums over two ranks the times that were measured.

    It takes the model's own costs aα + bβn (`unit_costs`; 2α + βn of a ring) at two sizes: the shortest, and the job's
    own `size` in bytes, because copies and protocols make β depend on the size. The time there is interpolated between
    the two measured sizes around it, in the logarithms of size and time. A sum waits for half of Horovod's cycle on
    average, which is not part of the link.
    """
    times = sorted((float(s["bytes"]), max(1e-9, statistics.median(s["s"]) - cycle_s / 2)) for s in sums)
    messages, passes = costs
    n0, t0 = times[0]
    size = min(max(size, times[1][0]), times[-1][0])
    place = next(k for k in range(1, len(times)) if size <= times[k][0])
    (n1, t1), (n2, t2) = times[place - 1], times[place]
    share = math.log(size / n1) / math.log(n2 / n1)
    own_s = t1 ** (1 - share) * t2**share
    slope = max(0.0, (own_s - t0) / (size - n0))
    latency_s = max(1e-7, (t0 - n0 * slope) / messages)
    beta, *around = (
        max(1e-13, (t - messages * latency_s) / n / passes) for n, t in ((size, own_s), (n1, t1), (n2, t2))
    )
    return LinkFit(
        latency_s, beta, math.sqrt(statistics.fmean([min(1.0, abs(b / beta - 1)) ** 2 for b in around]))
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
        costs = unit_costs(name, calibration.algorithm)

        def fit(sizes: Sequence[float], of: Profile = profile, costs: tuple[float, float] = costs) -> LinkFit:
            size = math.fsum(n * n for n in sizes) / math.fsum(sizes)
            return fit_link(of["sums"], size, calibration.cycle_s, costs)

        link, factor = fit(wanted), 1.0
        if profile.get("exchange_s") and _bytes(profile) == _bytes(calibration.one):
            own = fit(measured)
            rest_s = statistics.median(profile["exchange_s"]) - calibration.cycle_s / 2
            rest_s -= costs[0] * own.latency_s * len(measured)
            factor = max(0.1, rest_s / costs[1] / math.fsum(measured) / own.s_per_byte)
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
    """Returns the coefficient of variation over ranks within a step.

    It is robust against single slow steps: from the median difference of two ranks in one step (Shamos 1976), which for
    normal times is √2 σ z with z = Φ⁻¹(3/4). The median of m such differences is too large by 1/(32 φ(z)²(m + 2)) on
    average, a term of its second order (David, Nagaraja, Order Statistics, 2003, section 4.6).
    """
    differences: list[float] = []
    independent = 0
    for profile in calibration.profiles.values():
        for step in zip(*own_batch(profile)["step_s"], strict=True):
            mean_s = statistics.fmean(step)
            differences += [abs(a - b) / mean_s for a, b in itertools.combinations(step, 2)]
            independent += len(step) - 1
    if not differences:
        return 0.0
    normal = statistics.NormalDist()
    z = normal.inv_cdf(0.75)
    excess = 1 / (32 * normal.pdf(z) ** 2 * (independent + 2))
    return statistics.median(differences) / (math.sqrt(2) * z * (1 + excess))


@dataclass(frozen=True)
class Predicted:
    """The prediction for one GPU count: the step, throughput, and efficiency relative to one GPU.

    Bounds are those of 95 % intervals; None if the calibration was measured once, which does not show how runs scatter.
    """

    gpus: int
    nodes: int
    batch: int
    step: Step
    low_s: float | None
    high_s: float | None
    samples_per_s: float
    efficiency: float
    efficiency_low: float | None
    efficiency_high: float | None


def predict(
    calibration: Calibration,
    points: Sequence[tuple[Shape, int]],
    exchange: Exchange,
    algorithm: str,
    single_batch: int,
    accumulate: int = 1,
    gbit_per_s: float | None = None,
) -> list[Predicted]:
    """Returns the prediction for each point: the mean of those from each repeat of the calibration.

    `points` are shapes with the samples of a rank's forward pass; `single_batch` is that of the single GPU that
    efficiency refers to. Intervals are Student's over the repeats, of the logarithms: all that scatters from one
    calibration to the next is in them, and nothing that the model leaves out.
    """

    def steps(known: Calibration, wanted: Sequence[tuple[Shape, int]]) -> list[Step]:
        links, scatter = fit_links(known, exchange), Stragglers(variation(known))
        found = []
        for on, batch in wanted:
            own = work_of(known, on, batch)
            there = network_of(known, links, on, gbit_per_s)
            step = network.step(own, there, on, exchange, algorithm, scatter, known.stolen(on))
            # Forward and backward passes before the last of a step exchange nothing.
            earlier_s = (accumulate - 1) * (own.data_s + own.forward_s + own.backward_s)
            found.append(replace(step, compute_s=step.compute_s + earlier_s))
        return found

    calibrations = (calibration, *calibration.repeats)
    singles, *all_steps = zip(
        *(steps(known, [(Shape(1, 1), single_batch), *points]) for known in calibrations), strict=True
    )
    predictions = []
    for (on, batch), repeats in zip(points, all_steps, strict=True):
        samples = accumulate * batch * on.ranks
        step = Step(*map(statistics.fmean, zip(*map(astuple, repeats), strict=True)))
        gain = batch / single_batch  # times the step of one GPU by this one
        single_s = statistics.fmean(one.total_s for one in singles)
        low_s, high_s = _interval([each.total_s for each in repeats])
        low, high = _interval(
            [gain * one.total_s / each.total_s for one, each in zip(singles, repeats, strict=True)]
        )
        predictions.append(
            Predicted(
                on.ranks, on.nodes, samples, step, low_s, high_s, samples / step.total_s,
                gain * single_s / step.total_s, low, high,
            )
        )  # fmt: skip
    return predictions


def _interval(values: Sequence[float]) -> tuple[float, float] | tuple[None, None]:
    """Returns the bounds of the 95 % interval of the mean of positive values; None for a single one."""
    logarithms = [math.log(value) for value in values]
    half = interval(logarithms)
    if half is None:
        return None, None
    middle = statistics.fmean(logarithms)
    return math.exp(middle - half), math.exp(middle + half)
