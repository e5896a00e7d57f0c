"""Which gradients of one bucket have arrived, and whether the bucket is complete before the backward pass ends.

A parameter's gradient can arrive more than once in a pass: reentrant checkpoints and backward passes inside of a
backward pass add theirs one by one. So a bucket is complete early only if each of its gradients was seen to arrive
exactly once in an earlier pass. Pure.
"""

from __future__ import annotations


class Arrivals:
    """Of the gradients 0 to `count` - 1 of a bucket."""

    def __init__(self, count: int) -> None:
        self.seen = [False] * count  # in any pass of this step
        self._times = [0] * count  # in the pass that is armed
        self._most = [0] * count  # in any pass that ended
        self._late: list[int] = []
        self._missing = count

    def begin(self) -> None:
        """A step begins."""
        self.seen = [False] * len(self.seen)

    def arm(self) -> None:
        """The step's last backward pass begins."""
        self._times = [0] * len(self._times)
        self._missing = len(self._times)

    def arrived(self, place: int, started: bool) -> None:
        """The gradient at `place` has arrived in the armed pass. `started`: the sum has begun, and misses it."""
        self._times[place] += 1
        self._missing -= self._times[place] == 1
        if started:
            self._late.append(place)

    @property
    def complete(self) -> bool:
        """Whether each gradient has arrived, and is known to arrive once."""
        return self._missing == 0 and all(most == 1 for most in self._most)

    def end(self) -> None:
        """The armed pass has ended."""
        self._most = list(map(max, self._most, self._times))

    def repeated(self) -> list[int]:
        """Returns the gradients that arrived more than once in a pass that ended."""
        return [place for place, most in enumerate(self._most) if most > 1]

    def late(self) -> list[int]:
        """Returns the gradients that arrived after the sum had begun."""
        return self._late
