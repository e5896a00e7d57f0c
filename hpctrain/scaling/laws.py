"""Speed-up, efficiency, serial fractions and a recommended GPU count, all from measured step times.

Pure arithmetic over repeats: takes seconds and samples, returns figures with the half widths of their 95 %
confidence intervals (None for a single repeat). p is GPUs, T seconds per step, R samples per second. A run is slower
or faster than another by a factor, so ratios and laws are those of logarithms; counts may scatter differently.

Sources: Amdahl, AFIPS 30 (1967); Gustafson, CACM 31 (1988); Karp, Flatt, CACM 33 (1990). Intervals are Student's t;
ratios and laws use Welch's degrees of freedom (delta method). tests/unit/scaling/test_laws.py simulates how often they
hold the truth.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hpctrain.report.intervals import half_of_sum, interval

MISFIT = 0.01  # a law is rejected if its points differ from it by as much with at most this probability
NOISY = 0.25  # no conclusion is drawn if the half width is a larger share of the efficiency
WORTH = 0.70  # below this efficiency, more GPUs are not worth asking for
Mode = Literal["strong", "weak"]

# The parts of a step, and the words for each in a sentence.
PARTS = {
    "data": "reading and preparing data",
    "compute": "computing",
    "exposed": "communication that nothing hides",
    "straggler": "waiting for the slowest rank",
    "checkpoint": "saving checkpoints",
    "other": "work around the step",
}


@dataclass(frozen=True)
class Value:
    """A mean and half the width of its 95 % interval."""

    mean: float
    half: float | None = None

    @property
    def low(self) -> float:
        """The interval's lower end; the mean itself without an interval."""
        return self.mean - (self.half or 0.0)

    @property
    def high(self) -> float:
        """The interval's upper end; the mean itself without an interval."""
        return self.mean + (self.half or 0.0)

    def times(self, factor: float) -> Value:
        """Returns the value and its interval, `factor` times as large."""
        return Value(self.mean * factor, None if self.half is None else self.half * factor)


@dataclass(frozen=True)
class Repeat:
    """One run of a point: seconds per step, in total and by part, and the throughput of all ranks."""

    step_s: float
    samples_per_s: float
    parts_s: Mapping[str, float]
    hidden_s: float | None = None
    gflop_per_s: float | None = None
    mfu: float | None = None
    sample_j: float | None = None  # joules per sample
    energy: str = ""  # what measured them


@dataclass(frozen=True)
class Point:
    """A number of GPUs: the repeats that succeeded, and the reasons why others did not."""

    gpus: int
    nodes: int
    batch: int
    repeats: tuple[Repeat, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One line of the report. `node_hours` is for the study's target of epochs."""

    gpus: int
    nodes: int
    batch: int
    repeats: int
    samples_per_s: Value
    step_s: Value
    parts_s: Mapping[str, float]
    hidden_s: float | None
    speedup: Value
    efficiency: Value
    karp_flatt: Value | None
    gflop_per_s: float | None
    mfu: float | None
    node_hours: float | None
    sample_j: Value | None = None
    energy: str = ""


@dataclass(frozen=True)
class Fit:
    """A fitted law and its serial fraction, without an interval if a count has a single repeat.

    `fits` says whether the points differ from the law by no more than their repeats explain; None if nothing shows it:
    two counts, or repeats without any scatter. A law that does not fit has no interval.
    """

    law: Literal["Amdahl", "Gustafson"]
    serial: Value
    fits: bool | None = None

    @property
    def distinguishable(self) -> bool:
        """Whether the data show serial work: the law fits, and its serial fraction's interval lies above 0."""
        return self.fits is not False and self.serial.half is not None and self.serial.low > 0

    @property
    def limit(self) -> float | None:
        """The speed-up that no number of GPUs exceeds (Amdahl); None if the data do not show such a limit."""
        return 1 / self.serial.mean if self.law == "Amdahl" and self.distinguishable else None

    @property
    def limits(self) -> tuple[float, float] | None:
        """The 95 % interval of `limit`; the upper end is infinite if 0 is in that of the serial fraction.

        None without an interval, and if it lies below 0.
        """
        if self.law != "Amdahl" or self.serial.half is None or self.serial.high <= 0:
            return None
        return 1 / self.serial.high, 1 / self.serial.low if self.serial.low > 0 else math.inf

    def speedup(self, p: float) -> float:
        """Returns the law's speed-up on `p` GPUs."""
        s = self.serial.mean
        return 1 / (s + (1 - s) / p) if self.law == "Amdahl" else s + (1 - s) * p


def mean(values: Sequence[float]) -> Value:
    """Returns the mean with Student's interval."""
    return Value(statistics.fmean(values), interval(values))


def ratio(above: Sequence[float], below: Sequence[float], comparisons: int = 1) -> Value:
    """Returns the ratio of two means of independent repeats, with its interval by the delta method.

    Of so many `comparisons` the intervals hold all ratios at once in 95 %.
    """
    a, b = statistics.fmean(above), statistics.fmean(below)
    half = half_of_sum([(1 / a, above), (-1 / b, below)], comparisons)
    return Value(a / b, None if half is None else half * a / b)


def rows(points: Sequence[Point], node_hours_samples: float | None = None) -> list[Row]:
    """Returns the table; the smallest point that succeeded has efficiency 1.

    S(p) = p₀ R(p)/R(p₀) in both modes. With a fixed batch this is T(p₀)/T(p); with a batch that grows with p
    it is Gustafson's scaled speed-up. E = S/p. `node_hours_samples` is the target's number of samples.
    """
    measured = sorted((p for p in points if p.repeats), key=lambda p: p.gpus)
    return [_row(point, measured[0], node_hours_samples) for point in measured]


def _row(point: Point, base: Point, target: float | None) -> Row:
    rates = [r.samples_per_s for r in point.repeats]
    p, p0 = point.gpus, base.gpus
    gain = ratio(rates, [r.samples_per_s for r in base.repeats]) if point is not base else Value(1.0)
    speedup = gain.times(p0)
    parts = {
        name: statistics.fmean([r.parts_s.get(name, 0.0) for r in point.repeats])
        for name in PARTS
        if any(name in r.parts_s for r in point.repeats)
    }
    throughput = mean(rates)
    joules = [r.sample_j for r in point.repeats if r.sample_j is not None]
    return Row(
        p,
        point.nodes,
        point.batch,
        len(rates),
        throughput,
        mean([r.step_s for r in point.repeats]),
        parts,
        _known([r.hidden_s for r in point.repeats]),
        speedup,
        speedup.times(1 / p),
        karp_flatt(gain, p / p0) if p > p0 else None,
        _known([r.gflop_per_s for r in point.repeats]),
        _known([r.mfu for r in point.repeats]),
        point.nodes * target / throughput.mean / 3600 if target else None,
        mean(joules) if len(joules) == len(rates) else None,
        point.repeats[0].energy,
    )


def karp_flatt(speedup: Value, p: float) -> Value:
    """Returns the experimentally determined serial fraction e = (1/S − 1/p) / (1 − 1/p); overhead makes it grow."""
    e = (1 / speedup.mean - 1 / p) / (1 - 1 / p)
    if speedup.half is None:
        return Value(e)
    return Value(e, speedup.half / speedup.mean**2 / (1 - 1 / p))


def fit(points: Sequence[Point], mode: Mode) -> Fit | None:
    """Returns Amdahl's law for a fixed batch, Gustafson's for one that grows; None for fewer than two points.

    Amdahl is T = c (s + (1 - s)/p), Gustafson R = c (s + (1 - s) p) with p counted from the smallest, both with any c.
    Least squares of the logarithms over all repeats: what weighs is the relative distance, as runs scatter relatively.
    """
    measured = sorted((p for p in points if p.repeats), key=lambda p: p.gpus)
    if len(measured) < 2:
        return None
    if mode == "strong":
        times = [[math.log(r.step_s) for r in p.repeats] for p in measured]
        return Fit("Amdahl", *_serial([1 / p.gpus for p in measured], times))
    rates = [[math.log(r.samples_per_s) for r in p.repeats] for p in measured]
    return Fit("Gustafson", *_serial([p.gpus / measured[0].gpus for p in measured], rates))


def _serial(work: Sequence[float], groups: Sequence[Sequence[float]]) -> tuple[Value, bool | None]:
    """Returns (s, whether the law fits) of log y = log c + log(s + (1 - s) work), by Gauss and Newton's method.

    `groups` has the logarithms of each count's repeats.
    """
    s, means, sizes = 0.0, [statistics.fmean(group) for group in groups], [len(group) for group in groups]
    for _ in range(100):
        law = [s + (1 - s) * w for w in work]
        left = [mean - math.log(m) for mean, m in zip(means, law, strict=True)]
        slopes = [(1 - w) / m for w, m in zip(work, law, strict=True)]
        middle = _weighted(slopes, sizes)
        spread = math.fsum(n * (d - middle) ** 2 for n, d in zip(sizes, slopes, strict=True))
        factors = [n * (d - middle) / spread for n, d in zip(sizes, slopes, strict=True)]
        change = math.fsum(f * x for f, x in zip(factors, left, strict=True))
        while any(s + change + (1 - s - change) * w <= 0 for w in work):  # the law is positive
            change /= 2
        s += change
        if abs(change) < 1e-12:
            break
    middle = _weighted(left, sizes)
    misfit = math.fsum(n * (x - middle) ** 2 for n, x in zip(sizes, left, strict=True))
    fits = _explained(misfit, groups)
    return Value(s, None if fits is False else half_of_sum(list(zip(factors, groups, strict=True)))), fits


def _weighted(values: Sequence[float], weights: Sequence[int]) -> float:
    return math.fsum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)


def _explained(misfit: float, groups: Sequence[Sequence[float]]) -> bool | None:
    """Returns whether the scatter of repeats explains the sum of squares by which a law of two parameters misses means.

    The F test of lack of fit (Draper, Smith, Applied Regression Analysis, 1998, section 2.1).
    """
    own = math.fsum(statistics.variance(group) * (len(group) - 1) for group in groups if len(group) > 1)
    freedom, free = sum(map(len, groups)) - len(groups), len(groups) - 2
    if not (free and freedom and own):
        return None
    from scipy.special import fdtrc

    return bool(fdtrc(free, freedom, misfit / free / (own / freedom)) > MISFIT)


def ask_for(curve: Sequence[tuple[int, float]], worth: float = WORTH) -> int | None:
    """Returns the largest p of a curve of (p, efficiency) up to which every point reaches `worth`, or None."""
    best = None
    for p, efficiency in sorted(curve):
        if efficiency < worth:
            break
        best = p
    return best


def finding(table: Sequence[Row], mode: Mode, predicted: Sequence[tuple[int, float]] = ()) -> list[str]:
    """Returns sentences on how far the study scales, why no further, and how many GPUs to ask for.

    `predicted` holds the model's (p, efficiency) for counts that were not measured.
    """
    if not table:
        return ["No point has a result yet."]
    if len(table) == 1:
        return [f"Only {table[0].gpus} GPUs have a result: a speed-up needs a second point."]
    last, most = table[-1], ask_for([(r.gpus, r.efficiency.mean) for r in table])
    one = "as on one" if table[0].gpus == 1 else f"as on one of the first {table[0].gpus}"
    kept = "the effective batch fixed" if mode == "strong" else "the batch per GPU fixed"
    sentences = [
        f"With {kept}, training on {last.gpus} GPUs is {_said(last.speedup)} times as fast {one}: "
        f"efficiency {_percent(last.efficiency)}."
    ]
    if last.efficiency.half is not None and last.efficiency.half > NOISY * last.efficiency.mean:
        return [
            *sentences,
            "The repeats differ too much for a conclusion: measure again on nodes that nobody else uses.",
        ]
    fastest = max(table, key=lambda r: r.samples_per_s.mean)
    if fastest is not last:
        sentences.append(f"It is fastest on {fastest.gpus} GPUs; more make it slower.")
    sentences.append(
        _why(table, mode)
        if last.efficiency.mean < 1
        else "That is more than ideal: smaller shares fit the caches better, or the smallest point was disturbed."
    )
    if most == last.gpus:
        beyond = ask_for(predicted)
        more = f", and the model says up to {beyond}" if beyond and beyond > last.gpus else ""
        sentences.append(
            f"Ask for {last.gpus} GPUs: all that were measured are worth it (efficiency ≥ {WORTH:.0%}){more}."
        )
    elif most is not None:
        sentences.append(
            f"Ask for {most} GPUs: beyond that efficiency falls below {WORTH:.0%}"
            f"{_doubt(next(r for r in table if r.gpus > most))}."
        )
    return sentences


def _why(table: Sequence[Row], mode: Mode) -> str:
    """Returns a sentence that names the part of the step that costs most beyond its ideal share."""
    base, last = table[0], table[-1]
    shrink = base.gpus / last.gpus if mode == "strong" else 1.0
    lost = {
        name: last.parts_s[name] - shrink * base.parts_s.get(name, 0.0)
        for name in PARTS
        if name in last.parts_s
    }
    total = math.fsum(v for v in lost.values() if v > 0)
    if not total:
        return "The step's parts do not explain the loss."
    name = max(lost, key=lambda key: lost[key])
    return (
        f"What is lost there is mostly {PARTS[name]}: {1e3 * lost[name]:.3g} ms per step beyond the ideal, "
        f"{lost[name] / total:.0%} of the loss."
    )


def _doubt(row: Row) -> str:
    above = row.efficiency.high >= WORTH
    return (
        f" (on {row.gpus} the interval reaches {row.efficiency.high:.0%}: repeat to be sure)" if above else ""
    )


def _said(value: Value) -> str:
    return f"{value.mean:.3g}" if value.half is None else f"{value.mean:.3g} ± {value.half:.2g}"


def _percent(value: Value) -> str:
    half = "" if value.half is None else f" ± {100 * value.half:.2g}"
    return f"{100 * value.mean:.0f}{half} %"


def _known(values: Sequence[float | None]) -> float | None:
    """Returns the mean of the values that are known; None if there are none."""
    known = [v for v in values if v is not None]
    return statistics.fmean(known) if known else None
