"""The scores that every task has unless it says otherwise: functions of sums over all samples of all ranks."""

import numpy as np
import torch

from hpctrain.tasks import Task
from hpctrain.tasks.evaluator import SummedScores


def mean():
    return SummedScores(2, lambda sums: {"mean": sums[0] / sums[1]})


def add(evaluator, *sums):
    evaluator.add(None, (), torch.tensor(sums), np.array([0]))


def test_counts_beyond_2_to_the_24_are_exact():
    evaluator = mean()
    for value in (2.0**24, 1.0, 1.0):
        add(evaluator, value, 1.0)
    assert evaluator.part() == [2.0**24 + 2, 3.0]


def test_sums_of_ranks_are_added():
    assert mean().scores([[10.0, 4.0], [0.0, 0.0], [5.0, 1.0]]) == {"mean": 3.0}


def test_a_rank_that_took_nothing_adds_nothing():
    assert mean().part() == [0.0, 0.0]


def test_a_task_has_them_by_default():
    class Mean(Task):
        width, targets = 3, 1

        def loss(self, model, batch, carry):
            raise NotImplementedError

        def summarise(self, sums):
            return {"loss": sums[0] / sums[2]}

    first, second = (Mean().evaluator(None) for _ in range(2))
    add(first, 6.0, 1.0, 2.0)
    add(first, 3.0, 0.0, 1.0)
    assert second.part() == [0.0] * 3, "each evaluation has its own"
    assert first.scores([first.part(), second.part()]) == {"loss": 3.0}
