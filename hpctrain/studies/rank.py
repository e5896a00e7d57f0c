"""`python -m hpctrain.studies.rank RUN TOKEN`: one rank of a run, as a task of a Slurm step of a study's job."""

import sys
from pathlib import Path

from hpctrain.launch import scheduler
from hpctrain.run_dir import RunDir
from hpctrain.training.worker import work

if __name__ == "__main__":
    sys.exit(work(RunDir(Path(sys.argv[1])), sys.argv[2], scheduler.has_ended))
