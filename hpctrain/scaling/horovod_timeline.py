"""Summarises Horovod's timeline (comm.timeline=true): what the first rank did with gradients, and for how long.

Pure: takes the file's text (Chrome's trace format, often truncated) and the run's number of steps; returns seconds
per step. An interval that several tensors share, because Horovod fused them into one message, counts once.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

# Horovod's names of two intervals; all others are activities inside a message.
WAITING = "NEGOTIATE_ALLREDUCE"  # from the first rank's gradient to the last rank's
MESSAGE = "ALLREDUCE"


@dataclass(frozen=True)
class Timeline:
    """Times per step. `waiting_s` lasts until the last rank has a gradient; `activities_s` are a message's parts."""

    buckets: int
    messages_a_step: float  # a key of the report's JSON
    waiting_s: float
    message_s: float
    activities_s: Mapping[str, float]
    cycle_s: float | None

    @property
    def line(self) -> str:
        """The figures as one line of text."""
        parts = ", ".join(f"{name} {1e3 * s:.3g}" for name, s in self.activities_s.items())
        cycle = f"; a cycle takes {1e3 * self.cycle_s:.3g} ms" if self.cycle_s is not None else ""
        return (
            f"{self.buckets} bucket{'s' if self.buckets > 1 else ''} in {self.messages_a_step:.3g} messages per step, "
            f"{1e3 * self.message_s:.3g} ms ({parts}), waiting for the last rank {1e3 * self.waiting_s:.3g} ms{cycle}"
        )


def events(text: str) -> list[dict[str, Any]]:
    """Returns all complete events; a killed run leaves the last one incomplete."""
    for end in (len(text), text.rfind("}") + 1, text.rfind("},") + 1):
        try:
            parsed: list[dict[str, Any]] = json.loads(text[:end].rstrip(",] \r\n") + "]")
        except ValueError:
            continue
        return parsed
    return []


def summary(text: str, steps: int) -> Timeline | None:
    """Returns the figures of the first `steps` steps, or None if nothing was summed.

    Later sums are the profile's, which sums the same buckets at the end of a run.
    """
    trace = events(text)
    names = {e["pid"]: str(e.get("args", {}).get("name")) for e in trace if e.get("name") == "process_name"}
    # bucket.3.0, bucket.3.1, ... are the pieces of one bucket.
    buckets = {
        pid: m[1] for pid, name in names.items() if (m := re.match(r"(?:allreduce\.)?(bucket\.\d+)", name))
    }
    spans: dict[tuple[str, int], int] = {}  # (name, start): end, in microseconds
    open_: dict[int, list[tuple[str, int]]] = {pid: [] for pid in buckets}
    done = dict.fromkeys(buckets, 0)
    for event in trace:
        pid, kind = int(event.get("pid", -1)), event.get("ph")
        if pid not in buckets or done[pid] == steps:
            continue
        if kind == "B":
            open_[pid].append((event["name"], event["ts"]))
        elif kind == "E" and open_[pid]:
            name, start = open_[pid].pop()
            spans[name, start] = event["ts"]
            done[pid] += name == MESSAGE
    counted = max([0, *done.values()])
    if not counted:
        return None
    seconds: dict[str, float] = {}
    for (name, start), end in spans.items():
        seconds[name] = seconds.get(name, 0.0) + 1e-6 * (end - start) / counted
    cycles = [e["ts"] for e in trace if e.get("name") == "CYCLE_START"]
    gaps = [b - a for a, b in pairwise(cycles)]
    return Timeline(
        len(set(buckets.values())),
        sum(name == MESSAGE for name, _ in spans) / counted,
        seconds.pop(WAITING, 0.0),
        seconds.pop(MESSAGE),
        dict(sorted(seconds.items(), key=lambda pair: -pair[1])),
        1e-6 * statistics.median(gaps) if gaps else None,
    )
