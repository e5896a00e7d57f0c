"""`python -m hpctrain.launch.rank RUN TOKEN`: one rank of a run, as a task of a Slurm step of a study's job."""

import sys
from pathlib import Path

from hpctrain.scheduler import client
from hpctrain.storage.run_dir import RunDir
from hpctrain.training.worker import work

if __name__ == "__main__":
    sys.exit(work(RunDir(Path(sys.argv[1])), sys.argv[2], client.has_ended))
