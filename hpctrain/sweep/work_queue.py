"""The work queue of a study: what a free slot does next. Reads the study's files; its only side effect is the claim.

The order is: work that a stopped job left (for a job that restarts), a run that nobody has begun, a new suggestion
of the sampler, a promotion of asha, and work that a job left when it ended for good.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from hpctrain.scheduler import client
from hpctrain.storage.lock import this_process
from hpctrain.storage.run_state import Phase, Reason
from hpctrain.sweep import claims
from hpctrain.sweep.asha import promotable, rung_epochs
from hpctrain.sweep.claims import Claim
from hpctrain.sweep.settings import SweepConfig
from hpctrain.sweep.study_dir import Ended, StudyDir, Trial, Work

MAX_DEATHS = 3  # a run is not tried again after this many jobs in a row died during it


class WorkQueue:
    """One job's view of a study. `suggest` returns a new run, or None if there are enough."""

    def __init__(
        self,
        study: StudyDir,
        settings: SweepConfig,
        higher_is_better: bool,
        suggest: Callable[[], Trial | None] | None = None,
    ) -> None:
        self._study, self._settings, self._higher_is_better = study, settings, higher_is_better
        self._suggest = suggest
        self._ended: dict[str, Ended] = {}
        self._last: dict[str, int] = {}
        self._left_alone: Collection[str] = ()
        self.trials: dict[str, Trial] = {}
        self.waits = False  # whether the work of other jobs may lead to more work

    def refresh(self) -> None:
        """Reads what has changed. Raises OSError."""
        self.trials = self._study.trials()
        keys = self._study.ended_keys()
        self._ended = {key: facts for key, facts in self._ended.items() if key in keys}
        for key in keys - self._ended.keys():
            facts = self._study.read_ended(key)
            if facts is not None:
                self._ended[key] = facts
        self._last = claims.newest(self._study.claims)

    def take(
        self, begin_at: int = 0, leftovers_first: bool = False, but: Collection[str] = ()
    ) -> Claim | None:
        """Claims the next piece of work and returns it; None if there is none now (see `waits`). Raises OSError.

        `begin_at` spreads jobs that start together over the list; `but` holds the keys of work to leave alone.
        """
        self._left_alone = but
        self.refresh()
        if self._study.cancel_file.exists():
            self.waits = False
            return None
        claim = self._first(self._open()) if leftovers_first else None
        claim = claim or self._first(self._new(begin_at))
        while claim is None and self._suggest is not None and (trial := self._suggest()):
            self.trials[trial.run_id] = trial
            claim = self._first([self.work(trial.run_id, 0)])
        claim = claim or self._first(self._promotions())
        claim = claim or self._first(self._open())
        self.waits = claim is None and self._settings.pruner == "asha" and self._below_the_top()
        return claim

    def left(self) -> int:
        """Returns how many known pieces of work are not done, including those that others work on."""
        works = [*self._promotions(), *self._new(0), *self._open()]
        return len({work.key for work in works if work.key not in self._ended})

    def work(self, run_id: str, rung: int) -> Work:
        """Returns the piece of work, with the epoch at which it pauses."""
        rungs = self._rungs(run_id)
        return Work(run_id, rung, rungs[rung] if rung < len(rungs) - 1 else None)

    def _rungs(self, run_id: str) -> Sequence[int | None]:
        if self._settings.pruner != "asha":
            return [None]
        epochs = self.trials[run_id].config["train"]["epochs"]
        return rung_epochs(self._settings.min_epochs, self._settings.reduction, epochs)

    def _first(self, works: Iterator[Work] | Sequence[Work]) -> Claim | None:
        """Claims the first piece of work that nobody holds."""
        ended = client.Snapshot().has_ended
        for work in works:
            if work.key in self._ended or work.key in self._left_alone:
                continue
            claim = claims.take(self._study.claims, work, self._last.get(work.key, 0), ended)
            if claim is None:
                continue
            if self._study.has_ended(work):  # since the queue was read
                claim.close("ended")
                continue
            if claim.mishaps() >= MAX_DEATHS:
                text = f"{claim.mishaps()} jobs died without a report while they worked on it"
                ended_so: Ended = {
                    "phase": Phase.FAILED,
                    "reason": Reason.LOST,
                    "detail": text,
                    "value": None,
                    "epochs": 0.0,
                }
                self._study.write_ended(work, ended_so)
                claim.close("failed")
                continue
            return claim
        return None

    def _promotions(self) -> Iterator[Work]:
        if self._settings.pruner != "asha":
            return
        depth = max((len(self._rungs(run_id)) for run_id in self.trials), default=1)
        results: list[dict[str, float | None]] = [{} for _ in range(depth)]
        started: list[set[str]] = [set() for _ in range(depth)]
        for key, facts in self._ended.items():
            run_id, _, rung = key.rpartition(".")
            if run_id in self.trials and int(rung) < depth:
                whole = facts["phase"] in ("paused", Phase.DONE)
                results[int(rung)][run_id] = facts.get("value") if whole else None
        for key in [*self._last, *self._ended]:
            run_id, _, rung = key.rpartition(".")
            if int(rung) < depth:
                started[int(rung)].add(run_id)
        for run_id, to in promotable(results, started, self._settings.reduction, self._higher_is_better):
            if to < len(self._rungs(run_id)):
                yield self.work(run_id, to)

    def _new(self, begin_at: int) -> list[Work]:
        fresh = [run_id for run_id in self.trials if f"{run_id}.0" not in self._last]
        start = begin_at % len(fresh) if fresh else 0
        return [self.work(run_id, 0) for run_id in [*fresh[start:], *fresh[:start]]]

    def _open(self) -> list[Work]:
        """Returns work that was begun and has not ended, the lowest rung of each run.

        Claiming it shows whether somebody still works on it.
        """
        open_works = []
        for key in self._last:
            run_id, rung = key.rpartition(".")[0], int(key.rpartition(".")[2])
            below_ended = rung == 0 or f"{run_id}.{rung - 1}" in self._ended
            if key not in self._ended and run_id in self.trials and below_ended:
                open_works.append(self.work(run_id, rung))
        return open_works

    def _below_the_top(self) -> bool:
        """Returns whether somebody works on a rung whose result may promote a run.

        If it is not known whether the owner of a claim lives, the queue does not wait for it: that could be for ever.
        """
        mine, slurm = this_process(0), client.Snapshot()
        rungs = [work for work in self._open() if work.epochs is not None]
        records = [claims.read(self._study.claims, work.key, self._last[work.key]) for work in rungs]
        try:
            return any(claims.lives(record, mine, slurm) for record in records)
        except client.Unreachable:  # it will answer some day
            return True
