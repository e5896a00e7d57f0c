"""When to save, and which checkpoints to keep: the last k, every n steps, the best. The last and the best must verify.

Takes a checkpoint folder and deletes from it. No torch.
"""

from __future__ import annotations

import math
from pathlib import Path

from hpctrain.checkpoints import store
from hpctrain.checkpoints.store import CorruptCheckpoint, Entry, Meta, Unreadable
from hpctrain.config.settings import CheckpointConfig
from hpctrain.storage.files import FILES, Files


def young_daly_s(save_s: float, mtbf_s: float) -> float:
    """Returns the interval in seconds between saves that loses the least time: √(2 · save_s · mtbf_s).

    `mtbf_s` is the mean time between failures.

    Young 1974, "A first order approximation to the optimum checkpoint interval"; Daly 2006 agrees to first order.
    The result is at least 10 · save_s, so that saving takes at most a tenth of the time.
    """
    return max(math.sqrt(2 * save_s * mtbf_s), 10 * save_s)


class Retention:
    """Decides which checkpoints to keep. It remembers what it has verified, so that each is read only once."""

    def __init__(self, folder: Path, settings: CheckpointConfig, files: Files = FILES) -> None:
        self._folder, self._settings, self._files = folder, settings, files
        self._good: dict[Entry, Meta] = {}

    def prune(self) -> list[Entry]:
        """Delete the checkpoints that the settings do not keep. Returns them. Broken ones are put aside.

        If no checkpoint verifies, nothing is deleted. Raises OSError.
        """
        keep = self._keep(store.entries(self._folder))
        doomed = [entry for entry in store.entries(self._folder) if entry not in keep] if keep else []
        for entry in doomed:
            store.delete(self._folder, entry, self._files)
            self._good.pop(entry, None)
        return doomed

    def _keep(self, entries: list[Entry]) -> set[Entry]:
        """Returns the last k that verify (only the newest of each step), each n-th step, and the best that verifies."""
        settings = self._settings
        last: dict[int, Entry] = {}
        for entry in reversed(entries):
            if len(last) < settings.keep_last and entry.step not in last and self.is_good(entry):
                last[entry.step] = entry
        if not last:
            return set()
        keep = set(last.values())
        if settings.keep_every:
            keep |= set({e.step: e for e in entries if e.step % settings.keep_every == 0}.values())
        if settings.keep_best:
            ranked = sorted((m, e) for e in entries if (m := self._metric(e)) is not None)
            best = next((e for _, e in ranked if self.is_good(e)), None)
            keep |= {best} if best else set()
        # A checkpoint newer than the newest good one was not put aside, so the storage only could not read it just now.
        return keep | {e for e in entries if e.step > max(last)}

    def is_good(self, entry: Entry) -> bool:
        """Returns whether a checkpoint verifies. A broken one is put aside and its name printed."""
        if entry in self._good:
            return True
        try:
            self._good[entry] = store.verify(self._folder, entry)
        except Unreadable as error:
            print(f"checkpoint {error}", flush=True)
            return False
        except CorruptCheckpoint as error:
            print(f"checkpoint {error}: put aside", flush=True)
            store.put_aside(self._folder, entry, self._files)
            return False
        return True

    def _metric(self, entry: Entry) -> float | None:
        try:
            return store.metric_of(self._good.get(entry) or store.read_meta(self._folder, entry))
        except CorruptCheckpoint:
            return None
