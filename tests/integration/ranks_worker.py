"""One rank of several runs in a row, through the product's own session: `ranks_worker.py RUN_DIR...`.

Starting processes costs more than these runs do, so they share them, and Horovod is left up between them.
"""

import contextlib
import sys
from pathlib import Path

import torch

from hpctrain.config.load import from_dict
from hpctrain.storage import lock
from hpctrain.storage.run_dir import RunDir
from hpctrain.training import session
from hpctrain.training.comm import connect
from hpctrain.training.stop import StopFlag


def main():
    runs = [RunDir(Path(path)) for path in sys.argv[1:]]
    configs = [from_dict(run.read_config()) for run in runs]
    comm = connect(configs[0].comm, configs[0].ranks, lambda seconds: None)
    torch.set_num_threads(1)
    shutdown, comm.shutdown = comm.shutdown, lambda: None
    for run, config in zip(runs, configs, strict=True):
        owner = lock.acquire(run.checkpoints, 1, None, 0.0) if comm.rank == 0 else contextlib.nullcontext()
        with owner as term:
            reason = session._train_locked(config, run, 1, comm, StopFlag(), term)
        print(run.run_id, reason, flush=True)
    shutdown()


main()
