"""What a run's other files say if state.json or submission.json is missing or damaged.

The state is in attempts/ (storage/attempts.py) and in the last record of metrics.jsonl; the jobs are in the scripts
that sbatch took, submitit/<job>_submission.sh. Takes the run's folder; returns records, and writes nothing: the next
regular write of the state or the submission keeps what was rebuilt. No torch.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpctrain import job_environment
from hpctrain.errors import UserError
from hpctrain.storage import attempts
from hpctrain.storage.attempts import RankFile
from hpctrain.storage.config_file import read_config
from hpctrain.storage.json_files import read_own
from hpctrain.storage.records import SummaryRecord, TrainRecord, last_record
from hpctrain.storage.run_state import ENDINGS, Phase, Reason, RunState, Submission, phase_after

_SCRIPT = re.compile(r"(\d+)_submission\.sh")
_COMMENT = re.compile(r"^#SBATCH --comment='?([^'\n]*)", re.M)
_START = re.compile(r"slurm-(.+)\.\d+")  # job_environment.JobEnvironment.start
MISSING = "missing"


def state(run: Path, submission: Submission, why: str | None) -> RunState:
    """Returns the run's state by its other files. `why` says how state.json is damaged; None if it is missing."""
    numbers = attempts.numbers(run)
    if not numbers:
        return RunState(Phase.SUBMITTED if why and submission.in_slurm else Phase.NEW, damage=why)
    newest, record = numbers[-1], last_record(run / "metrics.jsonl")
    ranks, failure = attempts.ranks(run, newest), attempts.failure(run, newest)
    job_id = _job_of(attempts.token(run, newest))
    known: dict[str, Any] = {
        "attempt": newest, "ranks": len(ranks) or None, "job_id": job_id, "heartbeat": _last_sign_s(run, newest),
        "damage": why or MISSING,
    }  # fmt: skip
    if record is not None:
        known["step"] = record.step
    if isinstance(record, TrainRecord):
        known |= {"epoch": record.epoch, "figures": dict(record.scores)}
    if isinstance(record, SummaryRecord):
        known["summary"] = record.figures
        if record.reason == Reason.DONE:
            return RunState(Phase.DONE, Reason.DONE, **known)
    if submission.in_slurm and job_id not in _newest_jobs(submission):
        return RunState(Phase.SUBMITTED, **known)
    if failure is not None:
        phase = _phase(failure["reason"], submission.in_slurm, failed=True)
        return RunState(phase, failure["reason"], failure["detail"], failure["rank"], **known)
    return _of_ranks(ranks, submission.in_slurm, known)


def _of_ranks(ranks: list[RankFile], in_slurm: bool, known: dict[str, Any]) -> RunState:
    """The state that the outcomes of the ranks amount to: the first that failed speaks for all."""
    ended = [who for who in ranks if who["outcome"] != attempts.RUNNING]
    failed = [who for who in ended if _phase(who["outcome"], in_slurm) == Phase.FAILED]
    first = min(failed, key=lambda who: who.get("time", 0.0), default=ended[0] if ended else None)
    if first is None or (not failed and len(ended) < len(ranks)):
        return RunState(Phase.RUNNING, **known)
    rank = first["rank"] if failed else None
    return RunState(
        _phase(first["outcome"], in_slurm), first["outcome"], first.get("detail") or None, rank, **known
    )


def _phase(reason: str, in_slurm: bool, failed: bool = False) -> Phase:
    if failed or reason not in ENDINGS:
        return (ENDINGS[reason].phase if reason in ENDINGS else None) or Phase.FAILED
    return phase_after(reason, in_slurm)


def _job_of(token: str | None) -> str | None:
    """The job that began an attempt, by the attempt's token; None outside of Slurm."""
    said = _START.fullmatch(token or "")
    return said[1] if said else None


def _newest_jobs(submission: Submission) -> tuple[str, ...]:
    if submission.open and not submission.damage:
        return ()  # the jobs of this start are not noted yet
    return submission.job_ids[len(submission.job_ids) - submission.newest :]


def _last_sign_s(run: Path, attempt: int) -> float | None:
    """When a rank of the attempt last wrote something."""
    written = []
    for path in (run / "metrics.jsonl", *(run / "attempts" / str(attempt)).glob("rank_*")):
        with contextlib.suppress(OSError):
            written.append(path.stat().st_mtime)
    return max(written, default=None)


def submission(run: Path, why: str | None) -> Submission:
    """Returns the jobs of the run whose scripts are in its folder; `why` says how submission.json is damaged, None if
    it is missing.

    The submission is open: unless there is neither a script nor a damaged file, there may be jobs without a script.
    """
    scripts = dict(_scripts(run))
    if why is None and not scripts:
        return Submission()
    cluster = _cluster(run) or {}
    if cluster.get("kind") == "local" and not scripts:
        return Submission(damage=why)
    job_ids = tuple(sorted(scripts, key=int))
    comments = {job_id: _comment(text) for job_id, text in scripts.items()}
    newest = [job_id for job_id in job_ids if comments[job_id] == comments[job_ids[-1]]]
    conf = job_environment.read().slurm_conf or cluster.get("slurm_conf")
    return Submission(
        cluster=str(cluster.get("name", "unknown")), job_ids=job_ids, newest=len(newest), open=True,
        token=comments[job_ids[-1]].rpartition(":")[2] if job_ids else "",
        slurm_conf=str(Path(conf).expanduser().absolute()) if isinstance(conf, str) else None,
        known_as={job_id: (comment, "") for job_id, comment in comments.items()},
        path=next((path for job_id in job_ids if (path := _folder(scripts[job_id]))), None), damage=why or MISSING,
    )  # fmt: skip


def _scripts(run: Path) -> Iterator[tuple[str, str]]:
    """Yields the number and the script of each job whose script is in the folder."""
    with contextlib.suppress(OSError):
        for path in (run / "submitit").iterdir():
            if said := _SCRIPT.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    yield said[1], read_own(path)[0].decode(errors="replace")


def _comment(script: str) -> str:
    said = _COMMENT.search(script)
    return said[1] if said else ""


def _folder(script: str) -> str | None:
    """The run's folder, as a job's script names it."""
    said = re.search(r"^#SBATCH --output='?(.*)/submitit/[^/\n]*$", script, re.M)
    return said[1].replace("%%", "%") if said else None


def _cluster(run: Path) -> dict[str, Any] | None:
    """The cluster that config.yaml names; None if that is damaged as well."""
    try:
        cluster = read_config(run / "config.yaml", own=True).get("cluster")
    except (UserError, OSError):
        return None
    return cluster if isinstance(cluster, dict) else None
