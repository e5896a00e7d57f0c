"""A node whose clock is an hour ahead: Python imports this file at its start if it is on the path. Ranks only."""

import os
import time

if "SLURM_PROCID" in os.environ:
    right = time.time
    time.time = lambda: right() + 3600.0
    os.environ["SLURM_JOB_END_TIME"] = str(int(right()) + 30)  # newer Slurms set it, by their own clock
