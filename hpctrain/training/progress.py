"""How far a run has come: what a checkpoint holds besides tensors, and whether it fits the run that resumes from it.

Takes counts and settings; returns dictionaries for JSON, and reads them back with checks. Pure, no I/O. The ledger
proves that each sample is taken once per epoch: it is a count and a fingerprint of what the ranks took, and does not
depend on the order or on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from pydantic import TypeAdapter, ValidationError

from hpctrain.config.identity import identity_hash, noted, refuse_change
from hpctrain.config.settings import Config
from hpctrain.data.sampler import Indices
from hpctrain.errors import RunFailed
from hpctrain.storage.run_state import Reason

_Count = Annotated[int, Ge(0)]
HASHED_STEPS = 64


@dataclass
class Ledger:
    """What was taken of one epoch: how many samples, and the sum of their hashes mod 2^64.

    Each rank counts what it takes, and `total` adds them up. `epochs`: the same two numbers of each finished epoch.
    """

    epoch: _Count = 0
    taken: _Count = 0
    fingerprint: _Count = 0
    epochs: list[tuple[_Count, _Count]] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Not hashed yet: hashing the samples of many steps at once costs no more than those of one step.
        self._waiting: list[Indices] = []

    def take(self, indices: Indices) -> None:
        """Count the samples `indices` (n,), which this rank took in one step."""
        self._waiting.append(indices)
        if len(self._waiting) >= HASHED_STEPS:
            self._hash()

    def _hash(self) -> None:
        if self._waiting:
            indices = np.concatenate(self._waiting)
            self._waiting = []
            self.taken += len(indices)
            self.fingerprint = (self.fingerprint + fingerprint(indices)) % 2**64

    def total(self, of_ranks: list[tuple[int, int]]) -> Ledger:
        """Returns the ledger of all ranks, from the `share` of each."""
        taken, prints = (sum(column) for column in zip(*of_ranks, strict=True))
        return Ledger(self.epoch, taken, prints % 2**64, self.epochs)

    @property
    def share(self) -> tuple[int, int]:
        """What this rank took: count and fingerprint."""
        self._hash()
        return self.taken, self.fingerprint

    def close(self, of_ranks: list[tuple[int, int]], expected: Indices) -> None:
        """End the epoch. Raises RunFailed unless each of the samples `expected` (n,) was taken exactly once."""
        total = self.total(of_ranks)
        if total.share != (len(expected), fingerprint(expected)):
            raise RunFailed(
                Reason.DATA_ERROR, f"epoch {self.epoch} did not take each of {len(expected)} samples once"
            )
        self.epochs.append(total.share)
        self.epoch, self.taken, self.fingerprint = self.epoch + 1, 0, 0


@dataclass
class Window:
    """Sums since the last training record: the task's sums, and seconds, in total and by part of a step."""

    step: _Count = 0
    samples: _Count = 0
    good_steps: _Count = 0
    seconds: float = 0.0
    sums: list[float] = field(default_factory=list)
    parts_s: dict[str, float] = field(default_factory=dict)


@dataclass
class Progress:
    """How far the run has come. `validated_at`: the step of the last validation.

    `skipped`: spans [from, to) of steps without effect.
    """

    step: _Count = 0
    samples: _Count = 0
    elapsed_s: float = 0.0
    validation_losses: list[float] = field(default_factory=list)
    validated_at: _Count = 0
    bad_in_a_row: _Count = 0
    skipped: list[tuple[_Count, _Count]] = field(default_factory=list)
    window: Window = field(default_factory=Window)


@dataclass(frozen=True)
class Document:
    """The part of meta.json that a run adds to store.Meta."""

    progress: Progress
    ledger: Ledger
    sampler: dict[str, int]
    schedule: dict[str, float]
    config: dict[str, Any]
    config_hash: str


_DOCUMENT = TypeAdapter(Document)


def document(
    at: Progress, ledger: Ledger, config: Config, steps_per_epoch: int, next_lr: float
) -> dict[str, Any]:
    """Returns the content of meta.json: the keys of store.Meta first, then those of `Document`."""
    place = {"epoch": at.step // steps_per_epoch, "place": at.step % steps_per_epoch}
    place |= {"steps_per_epoch": steps_per_epoch, "effective_batch": config.effective_batch}
    rest = Document(
        at, ledger, place | {"seed": config.seed}, {"lr": next_lr}, noted(config), identity_hash(config, {})
    )
    head = {"step": at.step, "epoch": at.step / steps_per_epoch, "samples": at.samples}
    return head | asdict(rest)


def continued(
    meta: Mapping[str, Any], config: Config, order_of: Callable[[int], Indices]
) -> tuple[Progress, Ledger]:
    """Returns how far the run was at the checkpoint with this meta; `order_of(epoch)` is the order of its samples.

    Raises RunFailed: NO_VALID_CHECKPOINT if a value is malformed, CONFIG_CHANGED if the settings that make the science
    differ, DATA_ERROR if the order of this run does not begin with the samples that the checkpoint took.
    """
    try:
        saved = _DOCUMENT.validate_python({k: meta.get(k) for k in Document.__dataclass_fields__})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RunFailed(Reason.NO_VALID_CHECKPOINT, f"meta.json: {where}: {first['msg']}") from None
    refuse_change(saved.config, config)
    begun = order_of(saved.ledger.epoch)[: saved.ledger.taken]
    if saved.ledger.share != (len(begun), fingerprint(begun)):
        raise RunFailed(
            Reason.DATA_ERROR,
            f"the {saved.ledger.taken} samples that the checkpoint took of epoch {saved.ledger.epoch} are not"
            " the first of this run's order: the data, or NumPy's permutation, has changed",
        )
    return saved.progress, saved.ledger


def fingerprint(indices: Indices) -> int:
    """Returns the sum of the hashes of samples (n,) mod 2^64, in any order (SplitMix64, Steele, Lea, Flood 2014)."""
    z = (indices.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int((z ^ (z >> np.uint64(31))).sum(dtype=np.uint64))
