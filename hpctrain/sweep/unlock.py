"""Unlocks a study because a person says that its holders have ended: a `sweep` on another host, forgotten jobs.

Takes a study's folder; asks squeue. Side effects: releases the study's lock, the places of its local jobs, and the
claims and runs of processes of which it is not known whether they live. A process that is known to live keeps what it
has. No torch.
"""

from __future__ import annotations

from hpctrain.checkpoints import upkeep
from hpctrain.errors import RunFailed
from hpctrain.scheduler import client
from hpctrain.storage import lock
from hpctrain.storage.run_state import Reason
from hpctrain.sweep import claims
from hpctrain.sweep.study_dir import StudyDir


def unlock(study: StudyDir) -> list[str]:
    """Releases what processes that may have ended still hold of the study; returns the names of these processes.

    Raises RunFailed if a `sweep` of the study is known to live, or if Slurm does not answer.
    """
    slurm = client.Snapshot(study.parts()[-1]["slurm_conf"]) if study.exists() else client.Snapshot()
    ended = _sweep(study, slurm)
    try:
        ended += _jobs(study, slurm)
        ended += _local_jobs(study)
    except client.Unreachable as error:
        detail = f"Slurm does not say which jobs of the study live: {error}; try again"
        raise RunFailed(Reason.RUN_LOCKED, detail) from None
    return list(dict.fromkeys(ended))


def _local_jobs(study: StudyDir) -> list[str]:
    """Notes the end of local jobs of other hosts: they may have died before they had claimed anything."""
    mine = lock.this_process(0)
    ended = study.count_as_ended(lambda owner: lock.has_ended(lock.Owner(**owner), mine, None) is None)
    return [f"process {owner['pid']} on {owner['host']}" for owner in ended]


def _sweep(study: StudyDir, slurm: client.Snapshot) -> list[str]:
    owner = lock.last_owner(study.folder)
    if owner is None or owner.ended:
        return []
    if lock.has_ended(owner, lock.this_process(0), slurm.has_ended) is False:
        raise RunFailed(Reason.RUN_LOCKED, f"process {owner.pid} on {owner.host} is alive: end it there")
    lock.unlock(study.folder)
    return [f"process {owner.pid} on {owner.host}"]


def _jobs(study: StudyDir, slurm: client.Snapshot) -> list[str]:
    """Releases the claims whose owners may have ended, and the locks of their runs."""
    mine, ended = lock.this_process(0), set()
    for key, number in claims.newest(study.claims).items():
        record = claims.read(study.claims, key, number)
        if claims.lives(record, mine, slurm) is not None:
            continue
        run = study.run(key.rpartition(".")[0])
        try:
            upkeep.unlock(run, slurm.has_ended)
        except RunFailed:  # a rank of the run lives
            continue
        claims.unlock(study.claims, key, number)
        owner = record["owner"]
        ended.add(f"job {owner.job_id}" if owner.job_id else f"process {owner.pid} on {owner.host}")
    return sorted(ended)
