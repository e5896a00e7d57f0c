"""`python -m hpctrain.launch.hand_run SETTINGS`: what slurm/train.sbatch does first, inside its job.

Takes settings as submit does; makes the run directory, or finds the existing one, notes the job in it as submit
would, and prints its path.
"""

from __future__ import annotations

import sys

from hpctrain import job_environment
from hpctrain.config.compose import load
from hpctrain.errors import RunFailed, UserError
from hpctrain.launch.prepare import prepare
from hpctrain.scheduler import sbatch
from hpctrain.storage import last_word
from hpctrain.storage.patience import patiently
from hpctrain.storage.run_dir import make_private
from hpctrain.storage.run_state import Submission, reason_of_oserror


def main() -> int:
    """Prepares the run; returns the exit code: 2 for wrong settings, 228 for a full disk."""
    try:
        config = load(sys.argv[1:])
        if config.cluster.kind != "slurm":
            raise UserError("cluster", config.cluster.name, "give cluster=NAME, one that Slurm runs")
        sbatch.check(config)
        run = patiently(lambda: prepare(config))
        make_private(run.submitit)
        place = job_environment.read()
        earlier = run.submission.read().job_ids
        mine = Submission(config.cluster.name, job_ids=earlier, slurm_conf=place.slurm_conf)
        patiently(lambda: run.submission.write(mine.with_jobs([str(place.job_id)])))
    except UserError as error:
        print(f"hpctrain: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"hpctrain: {error}", file=sys.stderr)
        return last_word.exit_code(error.reason)
    except OSError as error:
        reason = reason_of_oserror(error)
        if reason is None:
            raise
        print(f"hpctrain: {reason}: {error}", file=sys.stderr)
        return last_word.exit_code(reason)
    print(run.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
