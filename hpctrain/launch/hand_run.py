"""`python -m hpctrain.launch.hand_run SETTINGS`: prepares a run; slurm/train.sbatch calls it first, inside its job.

Takes settings as submit does. Makes the run directory or takes the existing one, notes the job in it as submit would,
and prints its path.
"""

from __future__ import annotations

import sys
import uuid
from dataclasses import replace

from hpctrain import job_environment
from hpctrain.config.settings import Config
from hpctrain.data.derive import load
from hpctrain.errors import RunFailed, UserError
from hpctrain.launch.prepare import prepare
from hpctrain.launch.standing import Standing, look
from hpctrain.launch.start import PATIENCE_S, hold
from hpctrain.scheduler import client, sbatch
from hpctrain.scheduler.recognition import comment_of
from hpctrain.storage import last_word, output
from hpctrain.storage.folders import make_private
from hpctrain.storage.full_disk import patiently
from hpctrain.storage.run_dir import RunDir


def main() -> int:
    """Prepares the run; returns the exit code: 2 for wrong settings, that of the reason if storage fails."""
    try:
        config = load(sys.argv[1:])
        if config.cluster.kind != "slurm":
            raise UserError("cluster", config.cluster.name, "give cluster=NAME, one that Slurm runs")
        sbatch.check(config)
        run, job_id = patiently(lambda: prepare(config)), str(job_environment.read().job_id)
        with hold(run, patience_s=PATIENCE_S):
            other = look(run, besides=job_id)
            if other != Standing():
                raise UserError("run", run.run_id, f"is under way as job {other.job_id or other.leaving}")
            patiently(lambda: _note_job(run, config, job_id))
    except UserError as error:
        print(f"hpctrain: {error}", file=sys.stderr)
        return 2
    except (RunFailed, OSError) as error:
        word = last_word.of(error)
        if word is None:
            raise
        print(last_word.line(word), file=sys.stderr)
        return last_word.exit_code(word.reason)
    print(run.path)
    return 0


def _note_job(run: RunDir, config: Config, job_id: str) -> None:
    """Makes this job the newest of the run, and gives it a comment like that of submit's jobs."""
    make_private(run.submitit)
    before = run.submission.read()
    if job_id in before.job_ids:  # it has been started again
        return
    run.cancel_file.unlink(missing_ok=True)
    run.pause_at(None)
    token = uuid.uuid4().hex
    comment = comment_of(run.run_id, token)
    known = client.set_comment(job_id, comment)
    mine = replace(
        before, cluster=config.cluster.name, token=token, study=False, over=False, path=str(run.path), damage=None,
        slurm_conf=job_environment.read().slurm_conf,
    )  # fmt: skip
    run.submission.write(mine.with_jobs([job_id], comment if known else ""))


if __name__ == "__main__":
    output.as_log()
    sys.exit(main())
