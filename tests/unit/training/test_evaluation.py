"""An evaluation knows nothing of scores: any evaluator is filled once per micro-batch, gathered and asked."""

import numpy as np
import pytest
import torch

from hpctrain.training.comm import Comm
from hpctrain.training.evaluation import SummedScores, evaluate


class Numbers:
    """Sample i is the number i."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def batch(self, indices, generator=None):
        return (torch.from_numpy(np.asarray(indices)),)


class Mean:
    width = 2

    def summarise(self, sums):
        return {"mean": sums[0] / sums[1]}


class Largest:
    """A score that is not a sum."""

    def __init__(self):
        self.values, self.gathered = [], 0

    def update(self, sums):
        self.values.append(float(sums[0]))

    def gather(self, comm):
        self.gathered += 1

    def scores(self):
        assert self.gathered == 1
        return {"largest": max(self.values)}


def forward(batch, carry):
    (numbers,) = batch
    return numbers.sum(), torch.tensor([float(numbers.sum()), float(len(numbers))]), None


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_sums_are_over_each_sample_once(batch_size):
    model, ticks = torch.nn.Linear(1, 1), []
    evaluator = SummedScores(Mean(), torch.device("cpu"))
    scores = evaluate(model, forward, evaluator, Numbers(21), Comm(), 8, batch_size, lambda: ticks.append(1))
    assert scores == {"mean": 10.0}
    assert evaluator.sums == [210.0, 21.0]
    assert len(ticks) == {1: 21, 3: 8, 8: 3}[batch_size]
    assert model.training


def test_counts_beyond_2_to_the_24_are_exact():
    evaluator = SummedScores(Mean(), torch.device("cpu"))
    for value in (2.0**24, 1.0, 1.0):
        evaluator.update(torch.tensor([value, 1.0]))
    evaluator.gather(Comm())
    assert evaluator.sums == [2.0**24 + 2, 3.0]


def test_an_evaluator_need_not_add_up():
    model = torch.nn.Linear(1, 1)
    assert evaluate(model, forward, Largest(), Numbers(6), Comm(), 4, 1, list) == {"largest": 5.0}
