"""For copies of slurm/train.sbatch of version 0.1.0; the code is hpctrain/launch/hand_run.py."""

import sys

from hpctrain.launch.hand_run import main

if __name__ == "__main__":
    sys.exit(main())
