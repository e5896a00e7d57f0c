"""One rank of runs of a toy task whose scores do not add up: `evaluator_worker.py RUN_DIR...`.

The task and its network are added through the public tables alone. After its runs, a pair of ranks waits for scores
that take longer than a rank may wait for another.
"""

import contextlib
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hpctrain.config.load import from_dict
from hpctrain.config.tasks import TASK_KINDS, Score, TaskKind
from hpctrain.models.network import Network
from hpctrain.models.settings import NETWORKS
from hpctrain.storage import lock
from hpctrain.storage.run_dir import RunDir
from hpctrain.tasks import Task
from hpctrain.training import session
from hpctrain.training.comm import Watchdog, connect
from hpctrain.training.evaluation import evaluate
from hpctrain.training.stop import StopFlag

LIMIT_S, SCORING_S = 3.0, 4.5


@dataclass(frozen=True)
class SpotSettings:
    row: int = 4
    column: int = 3


class Spot(nn.Module):
    """Guesses a digit from one pixel: images (B, 1, H, W) to (B,). No guess depends on the rest of its batch."""

    def __init__(self, settings):
        super().__init__()
        self._at = settings.row, settings.column
        self.scale = nn.Parameter(torch.tensor(1.7))

    def forward(self, images):
        row, column = self._at
        return images[:, 0, row, column] * self.scale


class Guessing(Task):
    """A batch is (images (B, 1, H, W), digits (B,)); sums are (squared error, samples)."""

    width, targets = 2, 1

    def __init__(self, config, dataset):
        del config, dataset

    def loss(self, model, batch, carry):
        images, digits = batch
        total = (model(images) - digits).square().sum()
        return total, torch.stack([total.detach(), total.new_tensor(len(digits))]), carry

    def summarise(self, sums):
        return {"loss": sums[0] / sums[1]}

    def evaluator(self, dataset):
        return Guesses(dataset)


class Guesses:
    """The median error; the area under the ROC curve of "five or more"; and how errors vary along the samples."""

    def __init__(self, dataset):
        self._count = len(dataset)
        self._taken = [np.empty((0, 3))]

    def add(self, output, batch, sums, indices):
        columns = indices, output.numpy(), batch[1].numpy()
        self._taken.append(np.stack(columns, axis=1).astype(np.float64))

    def part(self):
        return np.concatenate(self._taken)

    def scores(self, parts):
        rows = np.concatenate(parts)
        indices, guesses, digits = rows[np.argsort(rows[:, 0])].T
        assert indices.tolist() == list(range(self._count)), "each sample once"
        errors = np.abs(guesses - digits)
        high, low = guesses[digits >= 5], guesses[digits < 5]
        wins = (high[:, None] > low).sum() + 0.5 * (high[:, None] == low).sum()
        return {
            "loss": float(np.mean(errors**2)),
            "median": float(np.median(errors)),
            "area": float(wins / max(1, len(high) * len(low))),
            "swing": float(np.abs(np.diff(errors)).sum()),
            "parts": float(sum(len(part) > 0 for part in parts)),
        }


class SlowGuesses(Guesses):
    def scores(self, parts):
        time.sleep(SCORING_S)
        return super().scores(parts)


ROWS = (
    (NETWORKS, "spot", Network(SpotSettings, "evaluator_worker:Spot")),
    (TASK_KINDS, "guessing", TaskKind("evaluator_worker:Guessing", (Score("median"), Score("loss")))),
)


class Digits:
    """Sample i shows the digit i."""

    def __len__(self):
        return 5

    def batch(self, indices):
        return torch.ones(len(indices), 1, 8, 8), torch.from_numpy(indices)


def no_answer(message):
    print(message, file=sys.stderr, flush=True)
    os._exit(3)


def wait_long(comm):
    comm.barrier()
    comm._watch = Watchdog(LIMIT_S, no_answer)
    task, model, digits = Guessing(None, None), Spot(SpotSettings()), Digits()
    scores = evaluate(
        model,
        lambda batch, carry: task.loss(model, batch, carry),
        SlowGuesses(digits),
        digits,
        comm,
        2,
        2,
        list,
    )
    if comm.rank == 1:
        print(f"waited for {scores['parts']:g} parts", flush=True)


def main():
    for table, name, row in ROWS:
        table[name] = row
    runs = [RunDir(Path(path)) for path in sys.argv[1:]]
    configs = [from_dict(run.read_config()) for run in runs]
    comm = connect(configs[0].comm, configs[0].ranks, no_answer)
    torch.set_num_threads(1)
    shutdown, comm.shutdown = comm.shutdown, lambda: None
    for run, config in zip(runs, configs, strict=True):
        owner = lock.acquire(run.checkpoints, 1, None, 0.0) if comm.rank == 0 else contextlib.nullcontext()
        with owner as term:
            session._train_locked(config, run, 1, comm, StopFlag(), term)
    if comm.size == 2:
        wait_long(comm)
    shutdown()


if __name__ == "__main__":
    main()
