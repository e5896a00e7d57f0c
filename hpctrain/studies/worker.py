"""For jobs that were queued by version 0.1.0; the code is hpctrain/sweep/worker.py."""

from hpctrain.sweep.worker import work_on

__all__ = ["work_on"]
